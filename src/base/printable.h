// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Makes text that another program chose safe for a terminal and for a line of a report: dwunw_printable
// (dwunw/printable.h) has the contract.
#pragma once

#include <cstddef>
#include <string_view>

namespace dwunw::base {

// Thread-safe; allocates nothing.
size_t printable(std::string_view text, char *out, size_t size);

} // namespace dwunw::base
