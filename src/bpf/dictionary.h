// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stack id → frames. Stacks that the kernel walked are kept as it sent them, a word a frame, and named by their layout
// when somebody asks.
//
// Not thread-safe.
#pragma once

#include "bpf/layout.h"

#include <dwunw/bpf_stacks.h>

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace dwunw::bpf {

class Dictionary {
  public:
    static constexpr size_t kDefaultLimit = size_t{256} << 20;

    // Takes in stacks of so many bytes together, about, and no more: what a target's calls look like is its own choice.
    explicit Dictionary(size_t limit = kDefaultLimit) : limit_(limit) {}

    // What the kernel found, complete. False where the id stands for other frames.
    bool add(uint64_t id, int32_t pid, std::shared_ptr<const Layout> layout, std::span<const __u64> words);
    // What dwunw_capture found.
    bool add(uint64_t id, int32_t pid, dwunw_status status, uint32_t reason, std::span<const dwunw_frame> frames);
    bool contains(uint64_t id) const { return stacks_.contains(id); }

    dwunw_status lookup(uint64_t id, dwunw_bpf_stack &out, std::span<dwunw_frame> frames) const;
    size_t size() const { return stacks_.size(); }
    uint64_t without_room() const { return without_room_; } // that were not taken in
    template <typename Visit> void each(Visit &&visit) const {
        for (const auto &[id, stack] : stacks_)
            visit(id);
    }

  private:
    struct Stack {
        int32_t pid = 0;
        dwunw_status status = DWUNW_OK;
        uint32_t reason = 0;
        uint64_t first_id = 0; // of a stack of the same frames
        std::shared_ptr<const Layout> layout;
        std::vector<uint64_t> words;
        std::vector<dwunw_frame> frames; // instead of words
    };

    static size_t count(const Stack &stack) { return stack.words.empty() ? stack.frames.size() : stack.words.size(); }
    static dwunw_frame frame(const Stack &stack, size_t index);
    static bool equal(const Stack &a, const Stack &b);
    void insert(uint64_t id, Stack stack);

    size_t limit_;
    size_t bytes_ = 0;
    uint64_t without_room_ = 0;
    std::unordered_set<uint64_t> layouts_; // numbers of those that are counted in bytes_
    std::unordered_map<uint64_t, Stack> stacks_;
    std::unordered_multimap<uint64_t, uint64_t> by_content_; // hash → first id
};

} // namespace dwunw::bpf
