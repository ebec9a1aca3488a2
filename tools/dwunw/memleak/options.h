// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The options of `dwunw memleak`.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dwunw_tool::memleak {

enum class Sort { kBytes, kCount, kAge, kGrowth, kScore };

struct Options {
    // What to watch: exactly one of these four.
    std::vector<int32_t> pids;
    std::string comm;
    std::string cgroup;
    std::vector<std::string> command; // program and arguments

    uint64_t interval = 5;              // seconds
    std::optional<uint64_t> reports;    // nullopt: until the end
    bool follow = false;                // forks, and what they execute
    bool show_blocks = false;           // each block with its address
    uint64_t older_ms = 500;            // only blocks of at least this age
    uint64_t sample_rate = 1;           // record one allocation in so many
    uint64_t sample_bytes = 0;          // record one in so many bytes, on average; 0: all
    uint64_t top = 10;                  // the rows to print
    uint64_t min_size = 0;              // only blocks of at least,
    uint64_t max_size = UINT64_MAX;     // and at most this size
    std::string object;                 // the file with the allocator; empty: every allocator that is found
    std::optional<std::string> prefix;  // of its functions' names; nullopt: every known one
    uint64_t max_memory = 0;            // bytes for blocks; 0: a tenth of the machine's memory
    std::optional<double> max_overhead; // percent of a core that the probes may cost
    Sort sort = Sort::kBytes;
    bool diff = false;     // only what has changed since the report before
    std::string diff_from; // only what has changed since this saved report
    std::string save;      // saves each report to this file
    bool verbose = false;
    bool strict = false;             // a loss is a failure
    std::optional<uint64_t> fail_on; // fails if at least so many bytes are outstanding at the end
    int error_exitcode = 1;          // the status for that
    std::string suppressions;        // a file
};

// Adds the options to a command.
void add_options(CLI::App &command, Options &options);

// Checks what CLI11 cannot. Returns the problem; empty: none.
std::string check(Options &options);

} // namespace dwunw_tool::memleak
