// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Checked standard output: output that cannot be written is an error, not a shorter report.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace dwunw_tool {

[[gnu::format(printf, 1, 2)]] void print(const char *format, ...);

// Prints another process's output, to standard output or error. False: it could not be written to standard output.
bool print_bytes(std::string_view bytes, FILE *to);

// Call it before anything is opened. It occupies the number of a closed stream; otherwise the next opened file would
// get that number, and the output would go into the file.
void begin_output();

// Whether some output is lost already; a long report can then stop.
bool output_is_lost();

// Writes out what was printed so far. A failure is kept for finish_output().
void flush_output();

// Writes all output out. False, with a message on stderr: some of it was lost.
bool finish_output();

// For text that another program chose (symbols, file names, thread names): dwunw_printable().
std::string printable(const std::string &text);

} // namespace dwunw_tool
