// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Symbols may nest, overlap and coincide, and hostile ones do all of it:
//
//     outer   |==========================|
//     inner        |=======|                      segments:  outer | inner | outer
//
// One sweep over their ends flattens the ranges into disjoint segments, in O(n log n) for any input.
// tests/unit/symbolize_symbol_index_test.cc compares it with the header's rule applied to every symbol.
#include "symbolize/symbol_index.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <tuple>

namespace dwunw {
namespace {

constexpr uint32_t kNoSymbol = std::numeric_limits<uint32_t>::max();

struct Interval {
    LinkAddr start, end;
    bool label;
    SymbolBinding binding;
    uint32_t symbol;

    // The greater one is the better answer for an address that both hold.
    auto preference() const { return std::tuple(!label, start, binding, ~end.value, ~symbol); }
    bool operator<(const Interval &other) const { return preference() < other.preference(); }
};

LinkAddr end_of(const SymbolRange &symbol) {
    const LinkAddr end = symbol.start + symbol.size;
    return end < symbol.start ? LinkAddr(std::numeric_limits<uint64_t>::max()) : end;
}

// Every symbol as a range, in ascending order of start. A label reaches up to the next symbol or to its section's end.
std::vector<Interval> intervals_of(const std::vector<SymbolRange> &symbols) {
    std::vector<uint32_t> order(symbols.size());
    for (uint32_t i = 0; i < order.size(); i++)
        order[i] = i;
    // At one start, symbols with a size come first, so that they hide the labels there.
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        return std::tuple(symbols[a].start, symbols[a].size == 0, a) <
               std::tuple(symbols[b].start, symbols[b].size == 0, b);
    });

    std::vector<Interval> intervals;
    intervals.reserve(symbols.size());
    LinkAddr reached; // the furthest end so far of a symbol with a known size
    size_t next = 0;  // the first symbol with a later start
    for (size_t i = 0; i < order.size(); i++) {
        const SymbolRange &symbol = symbols[order[i]];
        LinkAddr end;
        if (symbol.size != 0) {
            end = end_of(symbol);
            reached = std::max(reached, end);
        } else {
            if (symbol.start < reached)
                continue;
            for (next = std::max(next, i); next < order.size() && symbols[order[next]].start == symbol.start;)
                next++;
            end = symbol.section_end;
            if (next < order.size())
                end = std::min(end, symbols[order[next]].start);
        }
        if (symbol.start < end)
            intervals.push_back({symbol.start, end, symbol.size == 0, symbol.binding, order[i]});
    }
    return intervals;
}

} // namespace

SymbolIndex::SymbolIndex(const std::vector<SymbolRange> &symbols) {
    const std::vector<Interval> intervals = intervals_of(symbols);

    std::vector<LinkAddr> boundaries;
    boundaries.reserve(intervals.size() * 2);
    for (const Interval &interval : intervals) {
        boundaries.push_back(interval.start);
        boundaries.push_back(interval.end);
    }
    std::sort(boundaries.begin(), boundaries.end());
    boundaries.erase(std::unique(boundaries.begin(), boundaries.end()), boundaries.end());

    std::priority_queue<Interval> open;
    size_t next = 0;
    uint32_t current = kNoSymbol;
    for (const LinkAddr boundary : boundaries) {
        for (; next < intervals.size() && intervals[next].start == boundary; next++)
            open.push(intervals[next]);
        while (!open.empty() && open.top().end <= boundary)
            open.pop();
        const uint32_t best = open.empty() ? kNoSymbol : open.top().symbol;
        if (best != current)
            segments_.push_back({boundary, best});
        current = best;
    }
}

std::optional<uint32_t> SymbolIndex::find(LinkAddr address) const {
    auto after = std::upper_bound(segments_.begin(), segments_.end(), address,
                                  [](LinkAddr a, const Segment &segment) { return a < segment.start; });
    if (after == segments_.begin() || std::prev(after)->symbol == kNoSymbol)
        return std::nullopt;
    return std::prev(after)->symbol;
}

} // namespace dwunw
