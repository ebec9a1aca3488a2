// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/dictionary.h"

#include <algorithm>

namespace dwunw::bpf {

bool Dictionary::add(uint64_t id, int32_t pid, std::shared_ptr<const Layout> layout, std::span<const __u64> words) {
    if (const auto found = stacks_.find(id); found != stacks_.end())
        return found->second.pid == pid && std::ranges::equal(found->second.words, words);
    Stack stack;
    stack.pid = pid;
    stack.layout = std::move(layout);
    stack.words.assign(words.begin(), words.end());
    insert(id, std::move(stack));
    return true;
}

bool Dictionary::add(uint64_t id, int32_t pid, dwunw_status status, uint32_t reason,
                     std::span<const dwunw_frame> frames) {
    Stack stack;
    stack.pid = pid;
    stack.status = status;
    stack.reason = reason;
    stack.frames.assign(frames.begin(), frames.end());
    if (const auto found = stacks_.find(id); found != stacks_.end())
        return equal(found->second, stack);
    insert(id, std::move(stack));
    return true;
}

void Dictionary::insert(uint64_t id, Stack stack) {
    constexpr size_t kNodes = 2 * 4 * sizeof(void *); // in the two maps
    const size_t bytes = sizeof(Stack) + kNodes + stack.words.size() * sizeof(stack.words[0]) +
                         stack.frames.size() * sizeof(stack.frames[0]);
    // A layout is kept for as long as one of its stacks is.
    const bool new_layout = stack.layout != nullptr && !layouts_.contains(stack.layout->number());
    const size_t needed = bytes + (new_layout ? stack.layout->bytes() : 0);
    if (needed > limit_ - bytes_) {
        ++without_room_;
        return;
    }
    if (new_layout)
        layouts_.insert(stack.layout->number());
    uint64_t hash = static_cast<uint64_t>(stack.pid) << 8 | static_cast<uint64_t>(stack.status);
    for (size_t i = 0; i < count(stack); ++i) {
        hash = (hash ^ frame(stack, i).pc) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    stack.first_id = id;
    bool known = false;
    const auto [begin, end] = by_content_.equal_range(hash);
    for (auto it = begin; it != end && !known; ++it) {
        known = equal(stacks_.at(it->second), stack);
        if (known)
            stack.first_id = it->second;
    }
    stacks_.emplace(id, std::move(stack));
    bytes_ += needed;
    if (!known)
        by_content_.emplace(hash, id);
}

// Whether a reader sees no difference. How a frame was found is none.
bool Dictionary::equal(const Stack &a, const Stack &b) {
    if (a.pid != b.pid || a.status != b.status || count(a) != count(b))
        return false;
    for (size_t i = 0; i < count(a); ++i) {
        const dwunw_frame x = frame(a, i);
        const dwunw_frame y = frame(b, i);
        if (x.pc != y.pc || x.module != y.module || x.module_offset != y.module_offset ||
            ((x.flags ^ y.flags) & DWUNW_FRAME_FLAG_EXACT_PC) != 0)
            return false;
    }
    return true;
}

dwunw_frame Dictionary::frame(const Stack &stack, size_t index) {
    if (stack.words.empty())
        return stack.frames[index];
    const uint64_t word = stack.words[index];
    const bool exact = (word & DWUNW_BPF_FRAME_EXACT) != 0;
    dwunw_frame result{};
    result.pc = word & DWUNW_BPF_FRAME_PC;
    if (exact)
        result.flags |= DWUNW_FRAME_FLAG_EXACT_PC;
    if ((word & DWUNW_BPF_FRAME_SIGNAL) != 0)
        result.flags |= DWUNW_FRAME_FLAG_SIGNAL;
    if (index == 0)
        result.source = DWUNW_SOURCE_REGISTERS;
    else if ((word & DWUNW_BPF_FRAME_TRAMPOLINE) != 0)
        result.source = DWUNW_SOURCE_TRAMPOLINE;
    else
        result.source = exact ? DWUNW_SOURCE_SIGNAL : DWUNW_SOURCE_CFI;
    const auto place = stack.layout->find(RunAddr(result.pc) - (exact ? 0 : 1));
    if (place && place->module != nullptr) {
        result.module = place->module;
        result.module_offset = place->bias.link(RunAddr(result.pc)).value;
    }
    return result;
}

dwunw_status Dictionary::lookup(uint64_t id, dwunw_bpf_stack &out, std::span<dwunw_frame> frames) const {
    const auto found = stacks_.find(id);
    if (found == stacks_.end())
        return DWUNW_ERR_NOT_FOUND;
    const Stack &stack = found->second;
    out.pid = stack.pid;
    out.status = stack.status;
    out.reason = stack.reason;
    out.id = stack.first_id;
    out.count = count(stack);
    for (size_t i = 0; i < std::min(frames.size(), count(stack)); ++i)
        frames[i] = frame(stack, i);
    return DWUNW_OK;
}

} // namespace dwunw::bpf
