// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stops a process's threads with ptrace (ptrace(2), PTRACE_SEIZE and "Group-stop") and reads their registers.
//
// One thread, the tracer, makes and ends the object. Any thread, and a child of the tracer, may read its results. The
// target notices this: the kernel restarts interrupted system calls; a signal that arrives meanwhile is delivered at
// resume. A process that was stopped (SIGSTOP) stays stopped.
#pragma once

#include "arch/kernel_registers.h"
#include "base/result.h"
#include "process/proc_dir.h"

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace dwunw::process {

struct StoppedThread {
    pid_t tid = 0;
    std::string name;
    // DWUNW_OK: `registers` holds its registers. DWUNW_ERR_NO_PROCESS: it has ended. DWUNW_ERR_REGISTER_UNKNOWN: it is
    // in an uninterruptible wait in the kernel and does not stop. DWUNW_ERR_UNSUPPORTED_ARCH: not 64-bit code.
    dwunw_status status = DWUNW_OK;
    arch::CoreRegisters registers{};
    std::vector<uint8_t> fp_registers; // NT_FPREGSET; empty: could not be read
};

class StoppedThreads {
  public:
    // The time to wait for threads that do not stop, in stop() and again after the others have been resumed.
    static constexpr std::chrono::nanoseconds kPatience = std::chrono::seconds(5);

    // Seizes and stops every thread, until no new ones appear. DWUNW_ERR_NO_PROCESS; DWUNW_ERR_PERMISSION (also:
    // another tracer is attached, or `process` is the caller's own); DWUNW_ERR_LIMIT: the process makes threads faster
    // than they can be stopped. After an error, all threads run on as before.
    static Result<std::unique_ptr<StoppedThreads>> stop(const ProcDir &process,
                                                        std::chrono::nanoseconds patience = kPatience);

    // Resumes every thread.
    ~StoppedThreads();
    StoppedThreads(const StoppedThreads &) = delete;
    StoppedThreads &operator=(const StoppedThreads &) = delete;

    const std::vector<StoppedThread> &threads() const { return threads_; } // ascending by tid

  private:
    struct Tracee {
        pid_t tid = 0;
        enum class State : uint8_t { kInterrupted, kStopped, kEnded } state = State::kInterrupted;
        int signal = 0;         // to deliver at resume
        bool own_child = false; // the main thread of the caller's child: only the caller may collect its end
    };
    explicit StoppedThreads(std::chrono::nanoseconds patience) : patience_(patience) {}

    Result<bool> seize_new(const ProcDir &process);
    // Collects a thread's report, without waiting. True if it stopped or ended.
    static bool reap(Tracee &tracee);
    // Waits until `give_up`, and at least a moment.
    void wait_for_all(std::chrono::steady_clock::time_point give_up);
    // Detaches the stopped threads. False if one of them could not be detached.
    bool detach();
    // False if a stopped thread was killed, or replaced by one that executed a program.
    bool read_registers(const ProcDir &process);

    const std::chrono::nanoseconds patience_;
    std::vector<Tracee> tracees_; // ascending by tid
    std::vector<StoppedThread> threads_;
};

} // namespace dwunw::process
