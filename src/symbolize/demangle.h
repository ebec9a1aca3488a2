// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Names as people write them. The names come from files of whoever is being looked at, so the work is bounded: what
// could grow without measure is left as it is.
#pragma once

#include <string>

namespace dwunw {

// An Itanium C++ ABI mangled name (§5.1) demangled; anything else, and what is beyond the limits, unchanged. A symbol
// version ("@GLIBC_2.34", which linkers append in .symtab) is no part of the function's name and is left out.
std::string display_name(const char *raw_name);

} // namespace dwunw
