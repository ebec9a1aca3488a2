// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "target.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace dwunw_tool {
namespace {

// The facts of /proc about a process or thread, read once, so that they are of one moment.
struct ProcStatus {
    std::string state; // one letter; empty: no such process
    std::string tgid;
    std::string tracer;
    bool kernel_thread = false;

    bool has_exited() const { return state == "Z" || state == "X"; }
};

ProcStatus read_status(const std::string &folder) {
    ProcStatus status;
    std::ifstream file(folder + "/status");
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string field;
        words >> field;
        if (field == "State:")
            words >> status.state;
        else if (field == "Tgid:")
            words >> status.tgid;
        else if (field == "TracerPid:")
            words >> status.tracer;
    }

    // proc(5), /proc/PID/stat: the flags are the 7th field after the parenthesised name, which may contain any byte.
    constexpr unsigned long kPfKthread = 0x00200000;
    std::ifstream stat(folder + "/stat");
    const std::string text((std::istreambuf_iterator<char>(stat)), {});
    if (const size_t end_of_name = text.rfind(')'); end_of_name != std::string::npos) {
        std::istringstream words(text.substr(end_of_name + 1));
        std::string skipped;
        for (int i = 0; i < 6; i++)
            words >> skipped;
        unsigned long flags = 0;
        words >> flags;
        status.kernel_thread = (flags & kPfKthread) != 0;
    }
    return status;
}

// A thread of the process that still runs; nullopt: all have exited.
std::optional<int32_t> live_thread(int32_t pid) {
    const std::filesystem::path tasks = "/proc/" + std::to_string(pid) + "/task";
    std::error_code error;
    for (const auto &task : std::filesystem::directory_iterator(tasks, error)) {
        const ProcStatus status = read_status(task.path());
        if (!status.state.empty() && !status.has_exited())
            return std::stoi(task.path().filename());
    }
    return std::nullopt;
}

// Yama's kernel.yama.ptrace_scope; 0: there is no Yama.
int ptrace_scope() {
    std::ifstream file("/proc/sys/kernel/yama/ptrace_scope");
    int scope = 0;
    return file >> scope ? scope : 0;
}

// Advice for the user about a process that the kernel does not let the tool read.
std::string permission_advice(const std::string &pid) {
    if (const std::string tracer = read_status("/proc/" + pid).tracer; !tracer.empty() && tracer != "0")
        return "process " + tracer + " is tracing it";
    constexpr int kNobody = 3; // lasts until the next boot
    if (ptrace_scope() == kNobody)
        return "no process may be traced until the next boot (kernel.yama.ptrace_scope is 3)";
    if (::geteuid() == 0)
        return "root lacks CAP_SYS_PTRACE here, or a seccomp filter or security module forbids it";
    return "run as root, or as the process's user with ptrace allowed";
}

} // namespace

std::optional<int32_t> thread_to_open(int32_t pid) {
    const std::string thing = std::to_string(pid);
    const ProcStatus status = read_status("/proc/" + thing);
    if (!status.state.empty() && status.tgid != thing) {
        fail(thing, "is a thread of process " + status.tgid + ": use -p " + status.tgid);
        return std::nullopt;
    }
    if (status.kernel_thread) {
        fail(thing, "is a kernel thread: it has no user stack");
        return std::nullopt;
    }
    if (!status.has_exited())
        return pid;
    const auto live = live_thread(pid);
    if (!live)
        fail(thing, "has exited and waits for its parent (a zombie): it has no stack any more");
    return live;
}

bool open_process(dwunw_context *context, int32_t pid, Process &process) {
    const auto opened_by = thread_to_open(pid);
    if (!opened_by)
        return false;
    dwunw_process_options options{};
    options.size = sizeof options;
    options.pid = *opened_by;
    const dwunw_status status = dwunw_process_open(context, &options, Receive(process));
    if (status != DWUNW_OK)
        fail_process(pid, status);
    return status == DWUNW_OK;
}

int fail_process(int32_t pid, dwunw_status status) {
    const std::string thing = std::to_string(pid);
    if (status != DWUNW_ERR_PERMISSION)
        return fail(thing, status);
    return fail(thing, "permission denied: " + permission_advice(thing));
}

} // namespace dwunw_tool
