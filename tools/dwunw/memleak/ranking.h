// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which rows a report shows, in which order, and what it says about each beside its size.
#pragma once

#include "memleak/baseline.h"
#include "memleak/history.h"
#include "memleak/options.h"
#include "memleak/rows.h"
#include "memleak/suppressions.h"

#include <dwunw/symbolize.h>

#include <string>
#include <vector>

namespace dwunw_tool::memleak {

struct Ranked {
    const Row *row;
    std::string mark; // behind the row's first line; may be empty
};

// What the lines below the rows say.
struct Totals {
    uint64_t bytes = 0, count = 0; // without the three below
    uint64_t mapped = 0;           // of `bytes`
    uint64_t thread_stacks = 0;
    uint64_t allocators_own = 0;
    uint64_t suppressed_bytes = 0, suppressed_count = 0;
    double variance = 0; // of `bytes`, with sampling
    size_t stacks = 0;
};

class Ranking {
  public:
    Ranking(const Options &options, dwunw_symbolizer *symbolizer) : options_(options), symbolizer_(symbolizer) {}

    // Reads the files that the options name. Returns the problem; empty: none.
    std::string open();

    // Takes in a report of the moment `now_ns`, and ranks its rows. With sampling, the rows' bytes and counts become
    // estimates of all. The result refers to `rows`.
    std::vector<Ranked> rank(Rows &rows, uint64_t now_ns, bool is_sampled, Totals &totals);

  private:
    bool is_suppressed(const Rows &rows, const Row &row) const;
    std::string mark(const Row &row, const Trend &trend, int64_t change, bool is_sampled) const;

    const Options &options_;
    dwunw_symbolizer *symbolizer_;
    Suppressions suppressions_;
    Baseline baseline_;
    History history_;
};

} // namespace dwunw_tool::memleak
