// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Allocates blocks of an array that BPF programs read:
//
//     taken  ── give() ──►  resting: a running walk may still read it  ── wait() ──►  free
//
// A block that is given back may still be read by a walk that began before. So it rests until the owner says that no
// such walk is running.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

namespace dwunw::bpf {

class BlockAllocator {
  public:
    // `wait` returns true once every running walk has ended; false: it could not find out.
    BlockAllocator(uint32_t size, std::function<bool()> wait) : size_(size), wait_(std::move(wait)) {
        if (size > 0)
            free_.emplace(0, size);
    }

    // Takes `count` > 0 elements and returns the first; nullopt: no room. Waits only if nothing but a resting block is
    // large enough.
    std::optional<uint32_t> take(uint32_t count);
    void give_back(uint32_t first, uint32_t count);

    uint32_t size() const { return size_; }
    uint32_t used() const { return used_; } // with resting blocks

  private:
    std::optional<uint32_t> take_free(uint32_t count);
    void make_free(uint32_t first, uint32_t count);

    uint32_t size_;
    uint32_t used_ = 0;
    std::function<bool()> wait_;
    std::map<uint32_t, uint32_t> free_; // first → count; no two are adjacent
    struct Block {
        uint32_t first;
        uint32_t count;
    };
    std::vector<Block> resting_;
};

} // namespace dwunw::bpf
