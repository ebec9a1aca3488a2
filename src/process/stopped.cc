// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/stopped.h"

#include "process/os_error.h"

#include <elf.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>

namespace dwunw::process {
namespace {

using Clock = std::chrono::steady_clock;

// What a running thread may take to stop, when all patience is gone already.
constexpr std::chrono::milliseconds kMoment(2);
constexpr size_t kFpRegisterBytes = 512; // FXSAVE's area
// Each round finds the threads that were made by ones not yet stopped in the round before.
constexpr int kMaxRounds = 64;
constexpr int kQuietRounds = 3;

long trace(int request, pid_t tid, unsigned long data) {
    return ::ptrace(static_cast<__ptrace_request>(request), tid, nullptr, data);
}

// 0, ESRCH for a thread that has ended, or another errno. EPERM is what a zombie gets, too: also the main thread whose
// number the thread that executes a program is just about to take. So it counts only once it has been seen repeatedly.
// When we had seized that thread, we have it still, under its new number: then it can be interrupted.
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
    // The end of the caller's own child stays there for the caller to take note of.
    const int news = WSTOPPED | (tracee.own_child ? 0 : WEXITED);
    siginfo_t info{};
    int status;
    do
        status = ::waitid(P_PID, static_cast<id_t>(tracee.tid), &info, news | WNOHANG | __WALL);
    while (status < 0 && errno == EINTR);
    if (status == 0 && info.si_pid == 0) {
        // The number can have become that of another thread, which executed a program: one that was seized and not
        // yet interrupted, or one that was not seized. The latter is no ECHILD where it is the caller's own child.
        if (trace(PTRACE_INTERRUPT, tracee.tid, 0) == 0 || errno != ESRCH)
            return false;
        tracee.state = Tracee::State::kEnded;
        return true;
    }
    if (status < 0 || (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED)) {
        // Ended; or, with ECHILD, another thread executed a program and this one's number went with the rest.
        tracee.state = Tracee::State::kEnded;
        return true;
    }
    tracee.state = Tracee::State::kStopped;
    // An event-stop (our interrupt, or the group-stop of a stopped process) carries no signal to deliver. Anything else
    // is a signal on its way to the thread that we happened to intercept.
    if (info.si_status >> 8 == 0)
        tracee.signal = info.si_status;
    return true;
}

// A thread in an uninterruptible wait (a dead NFS server, a vfork's parent) does not stop until that ends.
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
        // waitpid knows no timeout, and without one an uninterruptible thread would hang the caller. Running threads
        // stop within microseconds; those that do not are asked less and less often.
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
        user_regs_struct registers;
        iovec buffer{&registers, sizeof(registers)};
        if (tracee.state == Tracee::State::kEnded)
            thread.status = DWUNW_ERR_NO_PROCESS;
        else if (tracee.state == Tracee::State::kInterrupted)
            thread.status = DWUNW_ERR_REGISTER_UNKNOWN;
        else if (::ptrace(PTRACE_GETREGSET, tracee.tid, NT_PRSTATUS, &buffer) != 0) {
            tracee.state = Tracee::State::kInterrupted;
            all = false;
        } else if (buffer.iov_len != sizeof(registers)) // a 32-bit thread's set is shorter
            thread.status = DWUNW_ERR_UNSUPPORTED_ARCH;
        else {
            std::memcpy(thread.pt_regs.data(), &registers, sizeof(thread.pt_regs));
            static_assert(sizeof(registers) == sizeof(thread.pt_regs) + sizeof(thread.segments));
            std::memcpy(thread.segments.data(), &registers.fs_base, sizeof(thread.segments));
            thread.fp_registers.resize(kFpRegisterBytes);
            buffer = {thread.fp_registers.data(), kFpRegisterBytes};
            if (::ptrace(PTRACE_GETREGSET, tracee.tid, NT_FPREGSET, &buffer) != 0 || buffer.iov_len != kFpRegisterBytes)
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
        // The kernel's list can miss a thread while another one ends.
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
        // All ended, and yet it lives: one of them executed a program, and goes on under the main thread's number.
        stopped->tracees_.clear();
    }
    return Error{DWUNW_ERR_LIMIT, stopped->tracees_.size()};
}

StoppedThreads::~StoppedThreads() {
    // Only a stopped thread can be let go. One that still does not stop stays seized until the calling program ends.
    // One that stood still and cannot be let go was killed; or its number has become that of a seized thread that
    // executed a program and is about to stop. A tracee's end has to be taken note of by its tracer before its parent
    // can be told of it. So they are waited for again.
    constexpr int kAttempts = 8;
    const auto give_up = Clock::now() + patience_;
    detach(); // nobody waits for those that do not stop
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
        // Without the signal a group-stop stays in force.
        const bool gone = trace(PTRACE_DETACH, tracee.tid, static_cast<unsigned long>(tracee.signal)) == 0;
        tracee.state = gone ? Tracee::State::kEnded : Tracee::State::kInterrupted;
        all &= gone;
    }
    return all;
}

} // namespace dwunw::process
