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
    row.bytes = static_cast<uint64_t>(std::llround(row.estimated_bytes));
    row.count = static_cast<uint64_t>(std::llround(row.estimated_count));
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
    if (is_sampled && row.variance > 0) {
        std::snprintf(text, sizeof text, " [estimated, +-%.0f %%]",
                      100 * std::sqrt(row.variance) / static_cast<double>(row.bytes));
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
        sightings.push_back({row.key, row.bytes, row.count, row.oldest});
        if (row.memory == Memory::kThreadStack) {
            totals.thread_stacks += row.bytes;
        } else if (row.memory == Memory::kAllocator) {
            totals.allocators_own += row.bytes;
            continue;
        } else if (is_suppressed(rows, row)) {
            totals.suppressed_bytes += row.bytes;
            totals.suppressed_count += row.count;
            continue;
        } else {
            totals.bytes += row.bytes;
            totals.count += row.count;
            totals.variance += row.variance;
            totals.mapped += row.memory == Memory::kMapping ? row.bytes : 0;
        }
        candidates.push_back({&row, {}, 0});
    }
    history_.add(now_ns, sightings);
    for (Candidate &candidate : candidates) {
        candidate.trend = history_.trend(candidate.row->key);
        candidate.change = candidate.trend.change;
        if (!options_.diff_from.empty())
            candidate.change = static_cast<int64_t>(candidate.row->bytes) -
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
            return std::tie(a.row->count, a.row->bytes) > std::tie(b.row->count, b.row->bytes);
        case Sort::kAge:
            return std::tie(a.row->oldest, b.row->bytes) < std::tie(b.row->oldest, a.row->bytes);
        case Sort::kGrowth:
            return std::tie(a.trend.bytes_per_second, a.row->bytes) > std::tie(b.trend.bytes_per_second, b.row->bytes);
        case Sort::kScore:
            return std::tie(a.trend.score, a.row->bytes) > std::tie(b.trend.score, b.row->bytes);
        case Sort::kBytes:
            break;
        }
        return std::tie(a.row->bytes, a.row->count) > std::tie(b.row->bytes, b.row->count);
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
