// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/stopped.h"

#include "process/os_error.h"

#include <elf.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>

namespace dwunw::process {
namespace {

using Clock = std::chrono::steady_clock;

// A running thread gets at least this long to stop, even if the patience is used up.
constexpr std::chrono::milliseconds kMoment(2);
// Each round finds the threads that running threads made during the round before.
constexpr int kMaxRounds = 64;
constexpr int kQuietRounds = 3;

long trace(int request, pid_t tid, unsigned long data) {
    return ::ptrace(static_cast<__ptrace_request>(request), tid, nullptr, data);
}

// Returns 0, ESRCH for a thread that has ended, or another errno. A zombie also gives EPERM, and so does the main
// thread whose number a thread that executes a program is about to take. So EPERM counts only after several attempts.
// If we had seized the executing thread, it is still ours, under its new number, and can be interrupted.
int seize(const ProcDir &process, pid_t tid) {
    constexpr int kTries = 100;
    for (int i = 0; i < kTries; ++i) {
        if (trace(PTRACE_SEIZE, tid, 0) == 0)
            return 0;
        const int error = errno;
        if (error != EPERM)
            return error;
        if (process.state(tid) != ProcDir::State::kAlive)
            return ESRCH;
        if (trace(PTRACE_INTERRUPT, tid, 0) == 0)
            return 0;
        ::sched_yield();
    }
    return EPERM;
}

} // namespace

Result<bool> StoppedThreads::seize_new(const ProcDir &process) {
    const size_t known = tracees_.size();
    for (const pid_t tid : process.threads()) {
        if (std::ranges::binary_search(tracees_.begin(), tracees_.begin() + static_cast<ptrdiff_t>(known), tid, {},
                                       &Tracee::tid))
            continue;
        if (const int error = seize(process, tid); error == ESRCH)
            continue;
        else if (error != 0)
            return error_from_errno(error);
        tracees_.push_back({.tid = tid, .own_child = tid == process.pid() && process.parent() == ::getpid()});
        // Fails only for a thread that is ending; waiting tells.
        trace(PTRACE_INTERRUPT, tid, 0);
    }
    std::ranges::sort(tracees_, {}, &Tracee::tid);
    return tracees_.size() > known;
}

bool StoppedThreads::reap(Tracee &tracee) {
    // If the target is the caller's own child, its end must stay visible to the caller.
    const int news = WSTOPPED | (tracee.own_child ? 0 : WEXITED);
    siginfo_t info{};
    int status;
    do
        status = ::waitid(P_PID, static_cast<id_t>(tracee.tid), &info, news | WNOHANG | __WALL);
    while (status < 0 && errno == EINTR);
    if (status == 0 && info.si_pid == 0) {
        // The number may have become that of another thread, which executed a program: one that was seized and not yet
        // interrupted, or one that was not seized. The latter gives no ECHILD if it is the caller's own child.
        if (trace(PTRACE_INTERRUPT, tracee.tid, 0) == 0 || errno != ESRCH)
            return false;
        tracee.state = Tracee::State::kEnded;
        return true;
    }
    if (status < 0 || (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED)) {
        // The thread has ended. With ECHILD, another thread may have executed a program, which ends all other numbers.
        tracee.state = Tracee::State::kEnded;
        return true;
    }
    tracee.state = Tracee::State::kStopped;
    // An event-stop (our interrupt, or the group-stop of a stopped process) has no signal to deliver. Any other stop is
    // a signal for the thread that we intercepted.
    if (info.si_status >> 8 == 0)
        tracee.signal = info.si_status;
    return true;
}

// A thread in an uninterruptible wait (a dead NFS server, a vfork's parent) stops only when the wait ends.
void StoppedThreads::wait_for_all(Clock::time_point give_up) {
    const auto begin = Clock::now();
    give_up = std::max(give_up, begin + kMoment);
    long pause_ns = 0;
    while (true) {
        bool all = true;
        for (Tracee &tracee : tracees_)
            if (tracee.state == Tracee::State::kInterrupted && !reap(tracee))
                all = false;
        const auto now = Clock::now();
        if (all || now > give_up)
            return;
        // waitpid has no timeout, and a thread in an uninterruptible wait would hang the caller. Running threads stop
        // within microseconds. The others are polled less and less often.
        if (now - begin < kMoment) {
            ::sched_yield();
        } else {
            pause_ns = std::clamp(pause_ns * 2, 100'000L, 20'000'000L);
            const timespec pause{0, pause_ns};
            ::nanosleep(&pause, nullptr);
        }
    }
}

bool StoppedThreads::read_registers(const ProcDir &process) {
    threads_.clear();
    bool all = true;
    for (Tracee &tracee : tracees_) {
        StoppedThread thread;
        thread.tid = tracee.tid;
        thread.name = process.thread_name(tracee.tid);
        iovec buffer{thread.registers.data(), sizeof(thread.registers)};
        if (tracee.state == Tracee::State::kEnded)
            thread.status = DWUNW_ERR_NO_PROCESS;
        else if (tracee.state == Tracee::State::kInterrupted)
            thread.status = DWUNW_ERR_REGISTER_UNKNOWN;
        else if (::ptrace(PTRACE_GETREGSET, tracee.tid, NT_PRSTATUS, &buffer) != 0) {
            tracee.state = Tracee::State::kInterrupted;
            all = false;
        } else if (buffer.iov_len != sizeof(thread.registers)) // a 32-bit thread's set is shorter
            thread.status = DWUNW_ERR_UNSUPPORTED_ARCH;
        else {
            thread.fp_registers.resize(arch::selected::kFpRegisterBytes);
            buffer = {thread.fp_registers.data(), arch::selected::kFpRegisterBytes};
            if (::ptrace(PTRACE_GETREGSET, tracee.tid, NT_FPREGSET, &buffer) != 0 ||
                buffer.iov_len != arch::selected::kFpRegisterBytes)
                thread.fp_registers.clear();
        }
        threads_.push_back(std::move(thread));
    }
    return all;
}

Result<std::unique_ptr<StoppedThreads>> StoppedThreads::stop(const ProcDir &process,
                                                             std::chrono::nanoseconds patience) {
    const auto give_up = Clock::now() + patience;
    std::unique_ptr<StoppedThreads> stopped(new StoppedThreads(patience));
    int quiet_rounds = 0;
    for (int round = 0; round < kMaxRounds; ++round) {
        auto found = stopped->seize_new(process);
        if (!found)
            return found.error();
        if (*found) {
            stopped->wait_for_all(give_up);
            quiet_rounds = 0;
            continue;
        }
        // The kernel's list may miss a thread while another one ends.
        if (++quiet_rounds < kQuietRounds)
            continue;
        quiet_rounds = 0;
        if (!std::ranges::all_of(stopped->tracees_, [](const Tracee &t) { return t.state == Tracee::State::kEnded; })) {
            if (stopped->read_registers(process))
                return stopped;
            stopped->wait_for_all(give_up);
            continue;
        }
        if (process.state() != ProcDir::State::kAlive)
            return Error{DWUNW_ERR_NO_PROCESS, static_cast<uint64_t>(process.pid())};
        // All threads have ended, and the process lives: one of them executed a program and has the main thread's
        // number.
        stopped->tracees_.clear();
    }
    return Error{DWUNW_ERR_LIMIT, stopped->tracees_.size()};
}

StoppedThreads::~StoppedThreads() {
    // Only a stopped thread can be detached. A thread that still does not stop stays seized until the calling program
    // ends. If a stopped thread cannot be detached, it was killed, or its number is now that of a seized thread that
    // executed a program and is about to stop. A tracer must collect a tracee's end before the tracee's parent can. So
    // wait for these again.
    constexpr int kAttempts = 8;
    const auto give_up = Clock::now() + patience_;
    detach(); // do not wait for threads that do not stop
    bool again = true;
    for (int attempt = 0; again && attempt < kAttempts; ++attempt) {
        wait_for_all(give_up);
        again = !detach();
    }
}

bool StoppedThreads::detach() {
    bool all = true;
    for (Tracee &tracee : tracees_) {
        if (tracee.state != Tracee::State::kStopped)
            continue;
        // Without the signal, a group-stop stays in force.
        const bool gone = trace(PTRACE_DETACH, tracee.tid, static_cast<unsigned long>(tracee.signal)) == 0;
        tracee.state = gone ? Tracee::State::kEnded : Tracee::State::kInterrupted;
        all &= gone;
    }
    return all;
}

} // namespace dwunw::process
