// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One run of `dwunw memleak`: starts, waits, reports, ends.
#pragma once

#include "memleak/kernel.h"
#include "memleak/mappings.h"
#include "memleak/overhead.h"
#include "memleak/probes.h"
#include "memleak/ranking.h"
#include "memleak/report.h"
#include "memleak/rows.h"

#include "recorder/clock.h"
#include "recorder/watched.h"

#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

namespace dwunw_tool::memleak {

class Session {
  public:
    explicit Session(Options options);
    ~Session();
    // Returns the exit status.
    int run();

  private:
    struct Process {
        int32_t pid = 0;
        bool ended = false;    // its blocks are in one more report
        bool replaced = false; // it executed another program: its blocks are gone
    };
    bool open();
    bool find_targets(uint64_t &cgroup);
    bool start_command(int &exit_code);
    bool attach_to_command();
    bool watch(int32_t pid);
    int nothing_to_trace(int32_t pid) const;
    void look_again();

    void loop();
    void wait(uint64_t until_ns);
    void take_signals();
    void watch_overhead();
    void show_status();
    bool is_over();
    void take_events();
    void take(const memleak_event &event);
    void take_stacks(uint64_t for_ns);

    std::vector<Loss> losses_so_far() const;
    void report();
    void collect(Rows &rows);
    void mark_allocators(Rows &rows);
    void print_mismatches(const Report &report, const Rows &rows) const;
    void print_end(const Totals &totals);
    void drop_ended();
    int exit_status();

    Options options_;
    Sampling sampling_;
    Context context_;
    Symbolizer symbolizer_;
    std::unique_ptr<Kernel> kernel_;
    std::unique_ptr<Probes> probes_;
    std::vector<Watched> watched_;
    std::optional<Child> child_;
    std::map<uint32_t, Process> processes_; // by number
    std::set<int32_t> added_;               // pids whose files were looked at
    Mappings mappings_;
    std::unique_ptr<Ranking> ranking_;
    // Blocks that the wrong function freed: stack of the allocation, kind, kind and stack of the free.
    using Mismatch = std::tuple<int64_t, uint32_t, uint32_t, int64_t>;
    std::map<Mismatch, uint64_t> mismatches_;
    size_t problems_shown_ = 0;
    uint64_t linker_events_ = 0;
    int signals_ = -1;
    bool interrupted_ = false;
    uint64_t outstanding_bytes_ = 0; // in the last report
    bool lost_something_ = false;
    std::optional<Overhead> overhead_; // nullopt: nobody asks for it
    uint64_t overhead_looked_ns_ = 0;
    bool gave_up_ = false;
    bool is_sampled_;           // not every allocation is recorded
    bool shows_status_ = false; // on a terminal
    bool has_executed_ = false; // the command stands at the start of another program
    std::vector<uint64_t> ids_; // of the last report
};

} // namespace dwunw_tool::memleak
