// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Standard output, checked: what could not be written is an error, not a shorter report.
#pragma once

#include <string>

namespace dwunw_tool {

[[gnu::format(printf, 1, 2)]] void print(const char *format, ...);

// Writes out what was printed; false, with a message on stderr, if any of it was lost.
bool finish_output();

// For text that another program chose (symbol and file names, thread names): dwunw_printable().
std::string printable(const std::string &text);

} // namespace dwunw_tool
