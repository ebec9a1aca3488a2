// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process's code as it was at a moment that has passed: a map that was read before, and what came since. Where no map
// of the program was read before, all that came since its exec: its vDSO is missing there.
//
// Only a module's rules are gone by: code without a file, or in one that cannot be used or has changed since, is not
// what it was, for all that is known here.
//
// For one walk, on one thread. Proved by tests/unit/bpf_moment_test.
#pragma once

#include "bpf/map_history.h"
#include "process/module_store.h"
#include "unwind/address_space.h"

#include <unordered_map>

namespace dwunw::bpf {

// Whether files are still what they were, asked again after a while.
class FileChecks {
  public:
    static constexpr uint64_t kAskAgainAfter = 10'000'000; // as Process::kVerifyAfter
    bool unchanged(const process::Module &file, uint64_t now);

  private:
    std::unordered_map<const process::Module *, uint64_t> checked_; // when; as many as there are modules
};

// What a process has been known to have mapped, when.
struct MapReading {
    std::shared_ptr<const process::Snapshot> snapshot;
    uint64_t begin = 0; // of the reading
    uint64_t end = 0;
    uint64_t execs = 0;
};

class Moment final : public unwind::AddressSpace {
  public:
    // `time`: not before the reading's end. All outlive it.
    Moment(process::Process &process, const MapReading &reading, const MapHistory &history, uint64_t time,
           FileChecks &checks, uint64_t now)
        : process_(process), reading_(&reading), since_(reading.begin), history_(history), time_(time), checks_(checks),
          now_(now) {}
    // `executed`: when its program was, not after `time`.
    Moment(process::Process &process, uint64_t executed, const MapHistory &history, uint64_t time, FileChecks &checks,
           uint64_t now)
        : process_(process), reading_(nullptr), since_(executed), history_(history), time_(time), checks_(checks),
          now_(now) {}

    unwind::CodeLocation find(RunAddr address) override;
    bool read_code(RunAddr address, std::span<uint8_t> buffer) override;

  private:
    struct Answer {
        process::Binding binding;
        RunAddr start;
        RunAddr end;
        RunAddr mapping_start; // and where in the file that is
        FileOffset offset;
    };
    Answer look(RunAddr address);
    const process::Binding &bind(Mapped &mapped);

    process::Process &process_;
    const MapReading *reading_;
    uint64_t since_; // what came before is not asked about
    const MapHistory &history_;
    uint64_t time_;
    FileChecks &checks_;
    uint64_t now_;
};

} // namespace dwunw::bpf
