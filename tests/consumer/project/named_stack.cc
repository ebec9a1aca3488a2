// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The libraries used from C++: a child process is stopped, its stack walked and its frames named.
#include <dwunw/dwunw_api.h>
#include <dwunw/process.h>
#include <dwunw/symbolize.h>
#include <dwunw/unwind.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace {

template <typename T> T sized() {
    T value;
    std::memset(&value, 0, sizeof(value));
    value.size = sizeof(value);
    return value;
}

bool check(const char *what, dwunw_status status) {
    if (status != DWUNW_OK)
        std::fprintf(stderr, "named_stack: %s: %s\n", what, dwunw_status_string(status));
    return status == DWUNW_OK;
}

bool walk_and_name(dwunw_context *context, dwunw_process *process, std::vector<std::string> &names) {
    dwunw_stopped *stopped = nullptr;
    if (!check("dwunw_process_stop", dwunw_process_stop(process, &stopped)))
        return false;
    dwunw_thread thread = sized<dwunw_thread>();
    std::vector<dwunw_frame> frames(64);
    size_t count = 0;
    bool ok = check("dwunw_stopped_thread", dwunw_stopped_thread(stopped, 0, &thread));
    if (ok) {
        dwunw_unwind_request request = sized<dwunw_unwind_request>();
        request.options = DWUNW_UNWIND_READ_PROCESS;
        request.process = process;
        request.regs = &thread.regs;
        request.frames = frames.data();
        request.max_frames = frames.size();
        ok = check("dwunw_capture", dwunw_capture(context, &request, &count));
    }
    dwunw_process_resume(stopped);

    dwunw_symbolizer *symbolizer = nullptr;
    if (!check("dwunw_symbolizer_open", dwunw_symbolizer_open(&symbolizer)))
        return false;
    for (size_t i = 0; i < count; i++) {
        dwunw_symbol symbol = sized<dwunw_symbol>();
        const dwunw_status status = dwunw_symbolize_frame(symbolizer, &frames[i], &symbol);
        names.push_back(status == DWUNW_OK ? symbol.name : dwunw_status_string(status));
    }
    dwunw_symbolizer_close(symbolizer);
    return ok;
}

} // namespace

// Blocks until its standard input's other end is closed: the parent's death ends the child too.
extern "C" __attribute__((noinline)) int wait_in_child(int fd) {
    char byte;
    const ssize_t got = read(fd, &byte, 1);
    return got == 0 ? 0 : 1;
}

int main() {
    int ends[2];
    if (pipe(ends) != 0)
        return 1;
    const pid_t child = fork();
    if (child < 0)
        return 1;
    if (child == 0) {
        close(ends[1]);
        _exit(wait_in_child(ends[0]));
    }
    close(ends[0]);

    dwunw_context *context = nullptr;
    dwunw_process *process = nullptr;
    dwunw_process_options options = sized<dwunw_process_options>();
    options.pid = child;
    bool found = false;
    if (check("dwunw_init", dwunw_init(nullptr, &context)) &&
        check("dwunw_process_open", dwunw_process_open(context, &options, &process))) {
        // The child is somewhere between fork and read: each walk has to reach the root, one of them inside read.
        for (int attempt = 0; attempt < 10000 && !found; attempt++) {
            std::vector<std::string> names;
            if (!walk_and_name(context, process, names))
                break;
            for (const std::string &name : names)
                found = found || name == "wait_in_child";
            if (found)
                for (const std::string &name : names)
                    std::printf("named_stack:   %s\n", name.c_str());
        }
    }
    dwunw_process_close(process);
    dwunw_shutdown(context);

    close(ends[1]);
    int status = 0;
    waitpid(child, &status, 0);
    if (!found)
        std::fprintf(stderr, "named_stack: wait_in_child was not found in the child's stack\n");
    return found && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}
