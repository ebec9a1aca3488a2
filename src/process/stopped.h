// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process's threads, stopped with ptrace (ptrace(2), PTRACE_SEIZE and "Group-stop") and their registers.
//
// Made, asked and ended on one thread, the tracer. What the target notices: interrupted system calls are restarted by
// the kernel; a signal that arrives meanwhile is delivered at resume; a process that was stopped (SIGSTOP) stays
// stopped.
#pragma once

#include "base/result.h"
#include "process/proc_dir.h"

#include <dwunw/unwind.h>

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dwunw::process {

struct StoppedThread {
    pid_t tid = 0;
    std::string name;
    // DWUNW_OK: `pt_regs` holds its registers. DWUNW_ERR_NO_PROCESS: it ended. DWUNW_ERR_REGISTER_UNKNOWN: it does not
    // stop, being in an uninterruptible wait in the kernel. DWUNW_ERR_UNSUPPORTED_ARCH: not 64-bit code.
    dwunw_status status = DWUNW_OK;
    std::array<uint64_t, DWUNW_X86_64_PT_REGS> pt_regs{}; // in the kernel's order
};

class StoppedThreads {
  public:
    // Seizes and stops every thread, until no new ones appear. DWUNW_ERR_NO_PROCESS; DWUNW_ERR_PERMISSION, also when
    // another tracer is attached or `process` is the caller's own; DWUNW_ERR_LIMIT for a process that makes threads
    // faster than they can be stopped. After an error everything runs on as before.
    static Result<std::unique_ptr<StoppedThreads>> stop(const ProcDir &process);

    // Resumes every thread.
    ~StoppedThreads();
    StoppedThreads(const StoppedThreads &) = delete;
    StoppedThreads &operator=(const StoppedThreads &) = delete;

    const std::vector<StoppedThread> &threads() const { return threads_; } // ascending by tid
    // A register set (NT_PRSTATUS, NT_FPREGSET) of one of them, as the kernel lays it out; how many bytes it has, 0
    // where it cannot be had.
    size_t read_register_set(pid_t tid, unsigned type, std::span<uint8_t> buffer) const;

  private:
    struct Tracee {
        pid_t tid = 0;
        enum class State : uint8_t { kInterrupted, kStopped, kEnded } state = State::kInterrupted;
        int signal = 0;         // to deliver at resume
        bool own_child = false; // the main thread of the caller's child: its end is for the caller to take note of
    };
    StoppedThreads() = default;

    Result<bool> seize_new(const ProcDir &process);
    // Takes what a thread has to report, without waiting; true when it stopped or ended.
    static bool reap(Tracee &tracee);
    void wait_for_all();
    // False when a thread that stood still has been killed, or replaced by one that executed a program.
    bool read_registers(const ProcDir &process);

    std::vector<Tracee> tracees_;
    std::vector<StoppedThread> threads_;
};

} // namespace dwunw::process
