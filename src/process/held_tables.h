// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The tables of all modules that a process maps at one moment, kept where a signal handler can read them: sorted, never
// changed, found without a lock. The budget of tables does not drop these.
//
// An answer is as true as View's (process.h): one that was last verified more than Process::kVerifyAfter ago is
// verified by asking the kernel for that one mapping, which is a system call and no more. Before Linux 6.11 there is no
// such question to ask, and what is older than Process::kRereadAfter has no answer. Of a map without a process, and of
// a core, nothing is verified.
//
// Thread-safe.
#pragma once

#include "base/unique_fd.h"
#include "process/process.h"
#include "unwind/table_walk.h"

#include <atomic>
#include <memory>
#include <vector>

namespace dwunw::process {

class HeldTables final : public unwind::TableSpace {
  public:
    // Reads the map again, opens its modules and compiles their tables. A module without a usable table is left out,
    // and so is moved code. Process::refresh's errors; DWUNW_ERR_MODULE_CHANGED where the map changes faster than it is
    // read.
    static Result<std::unique_ptr<const HeldTables>> of(Process &process);

    const unwind::TableCode *find(RunAddr address) const override;

  private:
    struct Held {
        unwind::TableCode code;
        const Mapping *mapping = nullptr;              // in snapshot_
        std::shared_ptr<const unwind::ModuleCfi> cfi;  // holds the table
        mutable std::atomic<uint64_t> verified_at = 0; // CLOCK_MONOTONIC, ns
    };

    HeldTables() = default;
    bool is_still_mapped(const Held &held) const;

    std::shared_ptr<const Snapshot> snapshot_;
    UniqueFd maps_;                // /proc/PID/maps; invalid: nothing to verify by
    std::unique_ptr<Held[]> held_; // by address
    size_t count_ = 0;
};

} // namespace dwunw::process
