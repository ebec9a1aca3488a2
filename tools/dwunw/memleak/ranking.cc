// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/ranking.h"

#include "frame_text.h"

#include <dwunw/process.h>

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <tuple>
#include <unordered_map>

namespace dwunw_tool::memleak {
namespace {

void estimate(Row &row) {
    row.amount.bytes = static_cast<uint64_t>(std::llround(row.amount.estimated_bytes));
    row.amount.count = static_cast<uint64_t>(std::llround(row.amount.estimated_count));
}

} // namespace

std::string Ranking::open() {
    if (!options_.suppressions.empty())
        if (std::string problem = suppressions_.read(options_.suppressions); !problem.empty())
            return problem;
    if (!options_.diff_from.empty())
        return baseline_.read(options_.diff_from);
    return {};
}

bool Ranking::is_suppressed(const Rows &rows, const Row &row) const {
    if (suppressions_.empty())
        return false;
    for (const dwunw_frame &frame : rows.frames(row)) {
        const auto symbol = symbol_of(symbolizer_, frame);
        const char *module = frame.module == nullptr ? "" : dwunw_module_path(frame.module);
        if (suppressions_.find(symbol ? symbol->name : "", module) != nullptr)
            return true;
    }
    return false;
}

std::string Ranking::mark(const Row &row, const Trend &trend, int64_t change, bool is_sampled) const {
    std::string mark;
    char text[128];
    if (is_sampled && row.amount.variance > 0) {
        std::snprintf(text, sizeof text, " [estimated, +-%.0f %%]",
                      100 * std::sqrt(row.amount.variance) / static_cast<double>(row.amount.bytes));
        mark += text;
    }
    if (options_.diff || !options_.diff_from.empty()) {
        std::snprintf(text, sizeof text, " [%+" PRId64 " bytes]", change);
        mark += text;
    }
    if (options_.sort == Sort::kGrowth || options_.sort == Sort::kScore)
        if (const std::string words = History::words(trend); !words.empty())
            mark += " [" + words + "]";
    return mark;
}

std::vector<Ranked> Ranking::rank(Rows &rows, uint64_t now_ns, bool is_sampled, Totals &totals) {
    totals = {};
    totals.stacks = rows.rows().size();
    struct Candidate {
        Row *row;
        Trend trend;
        int64_t change;
    };
    std::vector<Candidate> candidates;
    std::vector<Sighting> sightings;
    for (Row &row : rows.rows()) {
        if (is_sampled)
            estimate(row);
        sightings.push_back({row.key, row.amount.bytes, row.amount.count, row.amount.oldest});
        if (row.memory == Memory::kThreadStack) {
            totals.thread_stacks += row.amount.bytes;
        } else if (row.memory == Memory::kAllocator) {
            totals.allocators_own += row.amount.bytes;
            continue;
        } else if (is_suppressed(rows, row)) {
            totals.suppressed_bytes += row.amount.bytes;
            totals.suppressed_count += row.amount.count;
            continue;
        } else {
            totals.bytes += row.amount.bytes;
            totals.count += row.amount.count;
            totals.variance += row.amount.variance;
            totals.mapped += row.memory == Memory::kMapping ? row.amount.bytes : 0;
        }
        candidates.push_back({&row, {}, 0});
    }
    history_.add(now_ns, sightings);
    for (Candidate &candidate : candidates) {
        candidate.trend = history_.trend(candidate.row->key);
        candidate.change = candidate.trend.change;
        if (!options_.diff_from.empty())
            candidate.change = static_cast<int64_t>(candidate.row->amount.bytes) -
                               static_cast<int64_t>(baseline_.find(rows, *candidate.row).bytes);
    }
    const bool is_diff = options_.diff || !options_.diff_from.empty();
    if (is_diff)
        std::erase_if(candidates, [](const Candidate &candidate) { return candidate.change == 0; });
    std::stable_sort(candidates.begin(), candidates.end(), [&](const Candidate &a, const Candidate &b) {
        if (is_diff)
            return a.change > b.change;
        switch (options_.sort) {
        case Sort::kCount:
            return std::tie(a.row->amount.count, a.row->amount.bytes) >
                   std::tie(b.row->amount.count, b.row->amount.bytes);
        case Sort::kAge:
            return std::tie(a.row->amount.oldest, b.row->amount.bytes) <
                   std::tie(b.row->amount.oldest, a.row->amount.bytes);
        case Sort::kGrowth:
            return std::tie(a.trend.bytes_per_second, a.row->amount.bytes) >
                   std::tie(b.trend.bytes_per_second, b.row->amount.bytes);
        case Sort::kScore:
            return std::tie(a.trend.score, a.row->amount.bytes) > std::tie(b.trend.score, b.row->amount.bytes);
        case Sort::kBytes:
            break;
        }
        return std::tie(a.row->amount.bytes, a.row->amount.count) > std::tie(b.row->amount.bytes, b.row->amount.count);
    });
    std::vector<Ranked> ranked;
    for (const Candidate &candidate : candidates) {
        if (ranked.size() == options_.top)
            break;
        ranked.push_back({candidate.row, mark(*candidate.row, candidate.trend, candidate.change, is_sampled)});
    }
    return ranked;
}

} // namespace dwunw_tool::memleak
