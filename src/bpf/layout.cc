// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/bpf_layout_test.
#include "bpf/layout.h"

#include <algorithm>
#include <iterator>

namespace dwunw::bpf {

bool Layout::extend(std::span<const process::Process::CodeMapping> mappings) {
    // Both lists are sorted, so one pass finds every overlap. Parts of one mapping become one range.
    std::vector<Range> merged;
    merged.reserve(ranges_.size() + mappings.size());
    const auto take = [&](const Range &range) {
        if (merged.empty() || merged.back().end <= range.start) {
            merged.push_back(range);
            return true;
        }
        if (!same(merged.back(), range))
            return false;
        merged.back().end = std::max(merged.back().end, range.end);
        return true;
    };
    auto known = ranges_.begin();
    for (const auto &mapping : mappings) {
        for (; known != ranges_.end() && known->start <= mapping.start; ++known)
            if (!take(*known))
                return false;
        if (!take({mapping.start, mapping.end, mapping.binding.kind, {mapping.binding.module, mapping.binding.bias}}))
            return false;
    }
    for (; known != ranges_.end(); ++known)
        if (!take(*known))
            return false;
    ranges_ = std::move(merged);
    return true;
}

std::optional<unwind::PlacedModule> Layout::find(RunAddr address) const {
    const auto after = std::ranges::upper_bound(ranges_, address, {}, &Range::start);
    if (after == ranges_.begin())
        return std::nullopt;
    const Range &range = *std::prev(after);
    if (range.end <= address)
        return std::nullopt;
    return range.place;
}

} // namespace dwunw::bpf
