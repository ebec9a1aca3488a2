// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compiles big modules' tables beside the walks that want them, which go on by single FDEs meanwhile.
//
// One thread, started at the first job and ended with the queue; it takes no signals. A child of fork() has no such
// thread: a context is not for both sides of a fork. Thread-safe, except for destruction.
#pragma once

#include "unwind/module_cfi.h"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace dwunw::process {

class CompileQueue {
  public:
    // `compiled` is called on the thread after each job.
    explicit CompileQueue(std::function<void()> compiled) : compiled_(std::move(compiled)) {}
    // Ends after the job at hand; those that wait are dropped.
    ~CompileQueue();
    CompileQueue(const CompileQueue &) = delete;
    CompileQueue &operator=(const CompileQueue &) = delete;

    // False where the system has no thread for it.
    bool add(std::shared_ptr<const unwind::ModuleCfi> module);
    // Returns when there is nothing left to do.
    void wait_until_idle();
    // Jobs that ran out of memory, or whose file changed: those modules go on by single FDEs.
    uint64_t failures() const;

  private:
    void run();

    std::function<void()> compiled_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::shared_ptr<const unwind::ModuleCfi>> jobs_;
    bool working_ = false;
    bool ending_ = false;
    uint64_t failures_ = 0;
    std::thread thread_;
};

} // namespace dwunw::process
