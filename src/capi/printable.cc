// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/printable.h>

#include "base/printable.h"

extern "C" size_t dwunw_printable(const char *text, char *out, size_t size) {
    return dwunw::base::printable(text != nullptr ? text : "", out, size);
}
