// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What has been mapped executable in a process, and when: what lies at an address at a moment is the last thing that
// was mapped there before. That something was unmapped is not known, and does not matter to a stack: no code is running
// where none is mapped. An exec ends all that was there before it.
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

// One mapping that came.
struct Mapped {
    uint64_t time = 0; // CLOCK_MONOTONIC, ns; the kernel's, taken when it was there
    std::string path;
    process::Mapping mapping;                // its path is a view of `path`
    std::optional<process::Binding> binding; // once somebody has asked
};

class MapHistory {
  public:
    // So many together, of one process; beyond that the oldest are forgotten.
    static constexpr size_t kMost = 32768;
    static constexpr size_t kMostExecs = 256;

    void add(const std::shared_ptr<Mapped> &mapped);
    // At `time` it executed another program.
    void add_exec(uint64_t time);
    // Everything up to `time` is unknown.
    void lose(uint64_t time);
    // Nobody will ask about what was before, beyond what was there then.
    void forget_before(uint64_t time);

    // From when on it is known.
    uint64_t known_since() const { return known_since_; }
    size_t size() const { return size_; }

    // When the program that ran at `time` was executed; nullopt: not known, or none of its execs came here.
    std::optional<uint64_t> executed(uint64_t time) const;

    struct Found {
        std::shared_ptr<Mapped> mapped; // nullptr: nothing came here in this time
        RunAddr start;                  // from where to where the answer is the same
        RunAddr end;
    };
    // What came last from `since` to `until`, both included.
    Found find(RunAddr address, uint64_t since, uint64_t until) const;

  private:
    struct Range {
        RunAddr end;
        std::vector<std::shared_ptr<Mapped>> came; // by time
    };
    void split(RunAddr at);
    void drop_oldest();
    void forget_to(uint64_t time);

    std::map<RunAddr, Range> ranges_; // by start; none overlap
    size_t size_ = 0;                 // of all `came`
    std::vector<uint64_t> execs_;     // when, sorted
    uint64_t known_since_ = 0;
};

} // namespace dwunw::bpf
