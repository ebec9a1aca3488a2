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

// To be called before anything is opened: a stream that is closed keeps its number, and what is printed to it is lost,
// not written to the file that would have got the number.
void begin_output();

// Whether something that was printed is lost already: what prints much need not go on.
bool output_is_lost();

// Writes out what was printed; false, with a message on stderr, if any of it was lost.
bool finish_output();

// For text that another program chose (symbol and file names, thread names): dwunw_printable().
std::string printable(const std::string &text);

} // namespace dwunw_tool
