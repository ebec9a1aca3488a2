// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/bpf_layout_test.
#include "bpf/layout.h"

#include <algorithm>
#include <iterator>

namespace dwunw::bpf {

bool Layout::same(const Range &range, const process::Binding &binding) {
    return range.kind == binding.kind && range.place.module == binding.module &&
           range.place.bias.value == binding.bias.value;
}

bool Layout::extend(std::span<const process::Process::CodeMapping> mappings) {
    const auto first_overlap = [&](RunAddr start) {
        auto it = ranges_.upper_bound(start);
        return it != ranges_.begin() && std::prev(it)->second.end > start ? std::prev(it) : it;
    };
    for (const auto &mapping : mappings)
        for (auto it = first_overlap(mapping.start); it != ranges_.end() && it->first < mapping.end; ++it)
            if (!same(it->second, mapping.binding))
                return false;
    for (const auto &mapping : mappings) {
        RunAddr start = mapping.start;
        RunAddr end = mapping.end;
        for (auto it = first_overlap(start); it != ranges_.end() && it->first < end; it = ranges_.erase(it)) {
            start = std::min(start, it->first);
            end = std::max(end, it->second.end);
        }
        ranges_.emplace(start, Range{end, mapping.binding.kind, {mapping.binding.module, mapping.binding.bias}});
    }
    return true;
}

std::optional<Layout::Place> Layout::find(RunAddr address) const {
    const auto after = ranges_.upper_bound(address);
    if (after == ranges_.begin())
        return std::nullopt;
    const Range &range = std::prev(after)->second;
    if (range.end <= address)
        return std::nullopt;
    return range.place;
}

} // namespace dwunw::bpf
