// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The executable mappings of a process over time. The mapping at an address at a moment is the last one that came there
// before:
//
//     time        1          2            3
//     0x7f20…     libA.so    libB.so                   at time 2.5: libB.so
//
// Unmappings are not known, and do not matter for a stack: no code runs where none is mapped. An exec ends all mappings
// before it.
//
// Not thread-safe. Proved by tests/unit/bpf_map_history_test.
#pragma once

#include "process/maps.h"
#include "process/process.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dwunw::bpf {

// One new mapping.
struct Mapped {
    uint64_t time = 0; // CLOCK_MONOTONIC, ns; by the kernel, when the mapping existed
    std::string path;
    process::Mapping mapping;                // its path is a view of `path`
    std::optional<process::Binding> binding; // after the first question about it
};

class MapHistory {
  public:
    // The most mappings of one process. Beyond it, the oldest are forgotten.
    static constexpr size_t kMost = 32768;
    static constexpr size_t kMostExecs = 256;

    void add(const std::shared_ptr<Mapped> &mapped);
    // The process executed another program at `time`.
    void add_exec(uint64_t time);
    // Everything up to `time` is unknown.
    void lose(uint64_t time);
    // Forgets mappings before `time`, except those that were in force at that time.
    void forget_before(uint64_t time);

    // The time from which on the history is complete.
    uint64_t known_since() const { return known_since_; }
    size_t size() const { return size_; }

    // The time of the exec of the program that ran at `time`; nullopt: not known, or no exec was recorded.
    std::optional<uint64_t> executed(uint64_t time) const;

    struct Found {
        std::shared_ptr<Mapped> mapped; // nullptr: no mapping came here in this time
        RunAddr start;                  // the answer is the same for all of [start, end)
        RunAddr end;
    };
    // The last mapping that came from `since` to `until`, both included.
    Found find(RunAddr address, uint64_t since, uint64_t until) const;

  private:
    struct Range {
        RunAddr end;
        std::vector<std::shared_ptr<Mapped>> came; // in order of time
    };
    void split(RunAddr at);
    void drop_oldest();
    void forget_to(uint64_t time);

    std::map<RunAddr, Range> ranges_; // by start; none overlap
    size_t size_ = 0;                 // total of all `came`
    std::vector<uint64_t> execs_;     // times, sorted
    uint64_t known_since_ = 0;
};

} // namespace dwunw::bpf
