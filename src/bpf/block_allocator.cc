// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/block_allocator.h"

#include <iterator>

namespace dwunw::bpf {

std::optional<uint32_t> BlockAllocator::take(uint32_t count) {
    if (count == 0)
        return std::nullopt;
    if (auto first = take_free(count))
        return first;
    if (resting_.empty() || !wait_())
        return std::nullopt;
    for (const Block &block : resting_)
        make_free(block.first, block.count);
    resting_.clear();
    return take_free(count);
}

void BlockAllocator::give_back(uint32_t first, uint32_t count) {
    if (count != 0)
        resting_.push_back({first, count});
}

// First fit: there are few blocks, which come and go with modules.
std::optional<uint32_t> BlockAllocator::take_free(uint32_t count) {
    for (auto it = free_.begin(); it != free_.end(); ++it) {
        const auto [first, size] = *it;
        if (size < count)
            continue;
        free_.erase(it);
        if (size > count)
            free_.emplace(first + count, size - count);
        used_ += count;
        return first;
    }
    return std::nullopt;
}

void BlockAllocator::make_free(uint32_t first, uint32_t count) {
    used_ -= count;
    auto next = free_.lower_bound(first);
    if (next != free_.end() && first + count == next->first) {
        count += next->second;
        next = free_.erase(next);
    }
    if (next != free_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == first) {
            before->second += count;
            return;
        }
    }
    free_.emplace(first, count);
}

} // namespace dwunw::bpf
