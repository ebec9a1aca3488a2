// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "output.h"

#include <dwunw/printable.h>

#include <fcntl.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace dwunw_tool {
namespace {

int first_error = 0; // errno of the first write that failed

void note_result(bool failed) {
    if (failed && first_error == 0)
        first_error = errno != 0 ? errno : EIO;
}

} // namespace

void print(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int printed = std::vprintf(format, arguments);
    va_end(arguments);
    note_result(printed < 0);
}

bool print_bytes(std::string_view bytes, FILE *to) {
    const bool written = std::fwrite(bytes.data(), 1, bytes.size(), to) == bytes.size();
    if (to == stdout)
        note_result(!written);
    return to != stdout || first_error == 0;
}

void begin_output() {
    for (const int fd : {0, 1, 2})
        if (::fcntl(fd, F_GETFD) < 0)
            (void)::open("/dev/null",
                         fd == 1 ? O_RDONLY : O_RDWR); // gets this number, because it is the lowest free one
}

bool output_is_lost() { return first_error != 0; }

void flush_output() { note_result(std::fflush(stdout) != 0); }

bool finish_output() {
    flush_output();
    if (first_error == 0)
        return true;
    // The reader of the output has left (`| head` with SIGPIPE ignored): no message is needed.
    if (first_error != EPIPE)
        std::fprintf(stderr, "dwunw: standard output: %s\n", std::strerror(first_error));
    return false;
}

std::string printable(const std::string &text) {
    std::string result(dwunw_printable(text.c_str(), nullptr, 0), '\0');
    dwunw_printable(text.c_str(), result.data(), result.size() + 1);
    return result;
}

} // namespace dwunw_tool
