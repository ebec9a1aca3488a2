// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/compile_queue.h"

#include <pthread.h>

#include <csignal>
#include <new>
#include <system_error>

namespace dwunw::process {
namespace {

// A library's thread must not take a signal that the program expects on another thread: it starts with all signals
// blocked.
std::thread without_signals(const std::function<void()> &body) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    const auto restore = [&] { ::pthread_sigmask(SIG_SETMASK, &before, nullptr); };
    try {
        std::thread thread(body);
        restore();
        return thread;
    } catch (...) {
        restore();
        throw;
    }
}

} // namespace

CompileQueue::~CompileQueue() {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
        jobs_.clear();
    }
    changed_.notify_all();
    if (thread_.joinable())
        thread_.join();
}

bool CompileQueue::add(std::shared_ptr<const unwind::ModuleCfi> module) {
    const std::lock_guard lock(mutex_);
    if (!thread_.joinable()) {
        try {
            thread_ = without_signals([this] { run(); });
        } catch (const std::system_error &) {
            return false;
        }
    }
    jobs_.push_back(std::move(module));
    changed_.notify_all();
    return true;
}

void CompileQueue::wait_until_idle() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return jobs_.empty() && !working_; });
}

uint64_t CompileQueue::failures() const {
    const std::lock_guard lock(mutex_);
    return failures_;
}

void CompileQueue::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
        if (ending_)
            return;
        std::shared_ptr<const unwind::ModuleCfi> job = std::move(jobs_.front());
        jobs_.pop_front();
        working_ = true;
        lock.unlock();
        bool failed = false;
        try {
            failed = !job->compile();
        } catch (const std::bad_alloc &) {
            failed = true;
        }
        job.reset();
        compiled_();
        lock.lock();
        failures_ += failed;
        working_ = false;
        changed_.notify_all();
    }
}

} // namespace dwunw::process
