// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compiles the tables of big modules in the background. Meanwhile, walks use single FDEs.
//
// One thread, which starts at the first job and ends with the queue. It blocks all signals. A child of fork() does not
// have this thread: a context cannot be used on both sides of a fork. Thread-safe, except for destruction.
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
    // The thread calls `compiled` after each job.
    explicit CompileQueue(std::function<void()> compiled) : compiled_(std::move(compiled)) {}
    // Ends after the current job; waiting jobs are dropped.
    ~CompileQueue();
    CompileQueue(const CompileQueue &) = delete;
    CompileQueue &operator=(const CompileQueue &) = delete;

    // False if the system refuses a thread.
    bool add(std::shared_ptr<const unwind::ModuleCfi> module);
    // Returns when no job is left.
    void wait_until_idle();
    // Jobs that ran out of memory, or whose file changed. Walks use single FDEs of these modules.
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
