// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An index of objects in a vector: hash → number. It takes eight bytes for each slot, and at least half of the slots
// are used; a node of a standard container takes four times as much.
//
// Not thread-safe. Proved by tests/unit/bpf_number_index_test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dwunw::bpf {

class NumberIndex {
  public:
    static constexpr uint32_t kNone = UINT32_MAX;

    // The number whose object `equals` accepts; kNone: there is none. Only the upper half of `hash` counts.
    template <typename Equals> uint32_t find(uint64_t hash, Equals &&equals) const {
        if (slots_.empty())
            return kNone;
        for (size_t at = place(hash);; at = (at + 1) & (slots_.size() - 1)) {
            const uint64_t slot = slots_[at];
            if (slot == 0)
                return kNone;
            const uint32_t number = static_cast<uint32_t>(slot) - 1;
            if (slot >> 32 == hash >> 32 && equals(number))
                return number;
        }
    }

    // Adds a number that is not in the index yet; below kNone.
    void insert(uint64_t hash, uint32_t number) {
        if ((count_ + 1) * 4 > slots_.size() * 3)
            grow();
        put((hash & kUpper) | (number + 1));
        ++count_;
    }

    void clear() {
        slots_ = {};
        count_ = 0;
    }
    size_t bytes() const { return slots_.size() * sizeof(slots_[0]); }

  private:
    static constexpr uint64_t kUpper = ~uint64_t{0} << 32;
    static constexpr size_t kFirstSize = 64;

    size_t place(uint64_t hash) const { return (hash >> 32) & (slots_.size() - 1); }
    void put(uint64_t slot) {
        size_t at = place(slot);
        while (slots_[at] != 0)
            at = (at + 1) & (slots_.size() - 1);
        slots_[at] = slot;
    }
    void grow() {
        std::vector<uint64_t> before(slots_.empty() ? kFirstSize : slots_.size() * 2);
        before.swap(slots_);
        for (const uint64_t slot : before)
            if (slot != 0)
                put(slot);
    }

    std::vector<uint64_t> slots_; // upper half of the hash, and the number + 1; 0: free. The size is a power of two.
    size_t count_ = 0;
};

} // namespace dwunw::bpf
