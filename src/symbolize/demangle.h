// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Names in the form that people read. They come from a target's files, so the work is bounded: a name that could grow
// without limit stays mangled.
#pragma once

#include <string>

namespace dwunw {

// Demangles an Itanium C++ ABI name (§5.1). Returns any other name, and a name beyond the limits, unchanged. Removes
// the symbol version ("@GLIBC_2.34", which linkers append in .symtab): it does not belong to the function's name.
std::string display_name(const char *raw_name);

} // namespace dwunw
