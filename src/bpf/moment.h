// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process's code at a moment in the past:
//
//     10.0 s   the map was read               0x7f10… libA.so,  0x7f20… plugin1.so
//     10.2 s   a new mapping (map_watch.h)    0x7f20… plugin2.so
//     10.3 s   the moment                     0x7f10… libA.so,  0x7f20… plugin2.so
//
// It is put together from an earlier reading of the map, and the mappings that came since. If no map of the program was
// read before the moment, all mappings since its exec are used; its vDSO is then missing.
//
// Only the rules of modules are used. Code without a file, or in a file that is unusable or has changed since, may have
// been different at that moment.
//
// For one walk, on one thread. Proved by tests/unit/bpf_moment_test.
#pragma once

#include "bpf/map_history.h"
#include "process/module_store.h"
#include "unwind/address_space.h"

#include <unordered_map>

namespace dwunw::bpf {

// Whether files are unchanged. Asks again after some time.
class FileChecks {
  public:
    static constexpr uint64_t kAskAgainAfter = 10'000'000; // as Process::kVerifyAfter
    bool unchanged(const process::Module &file, uint64_t now);

  private:
    std::unordered_map<const process::Module *, uint64_t> checked_; // time of the last check; one for each module
};

// One reading of a process's map: the known mappings, and the time.
struct MapReading {
    std::shared_ptr<const process::Snapshot> snapshot;
    uint64_t begin = 0; // when the reading began
    uint64_t end = 0;
    uint64_t execs = 0;
};

class Moment final : public unwind::AddressSpace {
  public:
    // `time`: not before the end of the reading. All arguments outlive this.
    Moment(process::Process &process, const MapReading &reading, const MapHistory &history, uint64_t time,
           FileChecks &checks, uint64_t now)
        : process_(process), reading_(&reading), since_(reading.begin), history_(history), time_(time), checks_(checks),
          now_(now) {}
    // `executed`: the time of the program's exec, not after `time`.
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
        RunAddr mapping_start; // and the file offset of that
        FileOffset offset;
    };
    Answer look(RunAddr address);
    const process::Binding &bind(Mapped &mapped);

    process::Process &process_;
    const MapReading *reading_;
    uint64_t since_; // earlier events do not matter
    const MapHistory &history_;
    uint64_t time_;
    FileChecks &checks_;
    uint64_t now_;
};

} // namespace dwunw::bpf
