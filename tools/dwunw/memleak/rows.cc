// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/rows.h"

#include <algorithm>

namespace dwunw_tool::memleak {
namespace {

// Positions in modules count, not addresses: a module may have been loaded twice.
uint64_t position(const dwunw_frame &frame) { return frame.module != nullptr ? frame.module_offset : frame.pc; }

uint64_t hash_of(const std::vector<dwunw_frame> &frames, size_t count) {
    uint64_t hash = count;
    for (size_t i = 0; i < count; ++i) {
        hash = (hash ^ position(frames[i])) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32 ^ reinterpret_cast<uintptr_t>(frames[i].module);
    }
    return hash;
}

} // namespace

const char *name_of(Memory memory) {
    switch (memory) {
    case Memory::kMapping:
        return "mapped";
    case Memory::kThreadStack:
        return "thread stacks";
    case Memory::kAllocator:
        return "allocator";
    case Memory::kHeap:
        break;
    }
    return "heap";
}

void Amount::add(const Block &block, double probability, bool keep) {
    bytes += block.size;
    count++;
    oldest = std::min(oldest, block.born);
    if (probability > 0) {
        const double size = static_cast<double>(block.size);
        estimated_bytes += size / probability;
        estimated_count += 1 / probability;
        variance += size * size * (1 - probability) / (probability * probability);
    }
    if (keep)
        blocks.push_back(block);
}

void Amount::add(const Amount &other) {
    bytes += other.bytes;
    count += other.count;
    oldest = std::min(oldest, other.oldest);
    estimated_bytes += other.estimated_bytes;
    estimated_count += other.estimated_count;
    variance += other.variance;
    blocks.insert(blocks.end(), other.blocks.begin(), other.blocks.end());
}

size_t Rows::read_frames(int64_t stack, std::vector<dwunw_frame> &frames, dwunw_bpf_stack &out) const {
    frames.resize(kMaxFrames);
    out = {};
    out.size = sizeof out;
    if (stack <= 0 || dwunw_bpf_lookup(bpf_, static_cast<uint64_t>(stack), &out, frames.data(), kMaxFrames) != DWUNW_OK)
        return 0;
    return std::min<size_t>(out.count, kMaxFrames);
}

bool Rows::same_frames(int64_t one, int64_t other) const {
    dwunw_bpf_stack stack{};
    const size_t count = read_frames(one, one_, stack);
    if (read_frames(other, other_, stack) != count)
        return false;
    return std::equal(
        one_.begin(), one_.begin() + static_cast<ptrdiff_t>(count), other_.begin(),
        [](const dwunw_frame &a, const dwunw_frame &b) { return a.module == b.module && position(a) == position(b); });
}

const Rows::Chain &Rows::chain_of(int64_t stack) {
    if (const auto found = chains_.find(stack); found != chains_.end())
        return found->second;
    if (stack <= 0)
        return chains_.emplace(stack, Chain{stack < 0 ? stack : kStackNotKept, 0, 0}).first->second;
    dwunw_bpf_stack known{};
    const size_t count = read_frames(stack, one_, known);
    if (count == 0)
        return chains_.emplace(stack, Chain{kStackNotKept, 0, 0}).first->second;
    Chain chain{stack, known.status, hash_of(one_, count)};
    const auto [begin, end] = by_frames_.equal_range(chain.hash);
    for (auto at = begin; at != end; ++at)
        if (same_frames(stack, at->second)) {
            chain.first = at->second;
            return chains_.emplace(stack, chain).first->second;
        }
    by_frames_.emplace(chain.hash, stack);
    return chains_.emplace(stack, chain).first->second;
}

Row &Rows::of(int64_t stack, Memory memory) {
    const Chain &chain = chain_of(stack);
    const auto [at, is_new] = row_of_.try_emplace({chain.first, memory}, rows_.size());
    if (is_new) {
        rows_.emplace_back();
        rows_.back().memory = memory;
        rows_.back().key = (chain.hash != 0 ? chain.hash : static_cast<uint64_t>(chain.first)) * 4 + uint64_t(memory);
        rows_.back().stack = chain.first;
        rows_.back().status = chain.status;
    }
    return rows_[at->second];
}

std::vector<dwunw_frame> Rows::frames(const Row &row) const {
    dwunw_bpf_stack stack{};
    const size_t count = read_frames(row.stack, one_, stack);
    return {one_.begin(), one_.begin() + static_cast<ptrdiff_t>(count)};
}

std::vector<uint64_t> Rows::ids() const {
    std::vector<uint64_t> ids;
    for (const auto &[id, chain] : chains_)
        if (id > 0)
            ids.push_back(static_cast<uint64_t>(id));
    return ids;
}

} // namespace dwunw_tool::memleak
