// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Standard output, checked: what could not be written is an error, not a shorter report.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace dwunw_tool {

[[gnu::format(printf, 1, 2)]] void print(const char *format, ...);

// What another process has printed, to standard output or error; false when the former could not be written.
bool print_bytes(std::string_view bytes, FILE *to);

// Writes out what was printed; false, with a message on stderr, if any of it was lost.
bool finish_output();

// For text that another program chose (symbol and file names, thread names): control bytes become \xNN, so that a name
// can neither end a line nor steer a terminal.
std::string printable(std::string_view text);

} // namespace dwunw_tool
