// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stack id → frames. Ids multiply: each change of a process's map gives every stack a new one. So everything is kept
// once:
//
//     frame   an address with its module and how it was found; some 40 bytes with its place in an index
//     stack   the numbers of its frames; 4 bytes a frame
//     id      the number of its stack; 16 bytes in a table that is at most three quarters full
//
// What a target's calls look like is its own choice: stacks and frames may take seven eighths of the limit, ids all of
// it. An id whose stack found no room is known as such.
//
// Not thread-safe.
#pragma once

#include "bpf/layout.h"
#include "bpf/number_index.h"

#include <dwunw/bpf_stacks.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dwunw::bpf {

class StackStore {
  public:
    static constexpr size_t kDefaultLimit = size_t{256} << 20;

    // Takes in stacks of so many bytes together, about, and no more. `seed`: of hashes, unknown to targets.
    explicit StackStore(size_t limit = kDefaultLimit, uint64_t seed = 0) : limit_(limit), seed_(seed) {}

    // What the kernel found, complete. False where the id stands for other frames.
    bool add(uint64_t id, int32_t pid, const Layout &layout, std::span<const __u64> words);
    // What dwunw_capture found.
    bool add(uint64_t id, int32_t pid, dwunw_status status, uint32_t reason, std::span<const dwunw_frame> frames);
    bool contains(uint64_t id) const { return find(id) != nullptr; }

    // DWUNW_ERR_NOT_FOUND; DWUNW_ERR_LIMIT: there was no room for it. Where not even its id found room, so may be said
    // of another id.
    dwunw_status lookup(uint64_t id, dwunw_bpf_stack &out, std::span<dwunw_frame> frames) const;

    size_t size() const { return id_count_; }            // ids, with and without frames
    size_t stacks() const { return stack_list_.size(); } // kept
    size_t bytes() const { return id_bytes() + bytes_; }
    uint64_t without_room() const { return without_room_; } // ids whose frames were not taken in
    uint64_t forgotten() const { return forgotten_; }
    template <typename Visit> void each(Visit &&visit) const {
        for (const Alias &alias : ids_)
            if (alias.id != 0 && alias.stack != kNoRoom)
                visit(alias.id);
    }

    // Forgets the ids that `needed` refuses now, refused the last time, and that were not touched in between; calls
    // `unneeded` with those that it refuses for the first time. The first id of a stack stays as long as one of its ids
    // does: it is the one that lookup() gives.
    template <typename Needed, typename Unneeded> void retain(Needed &&needed, Unneeded &&unneeded) {
        std::vector<bool> wanted(ids_.size());
        std::vector<bool> stack_wanted(stack_list_.size());
        for (size_t i = 0; i < ids_.size(); ++i) {
            Alias &alias = ids_[i];
            if (alias.id == 0)
                continue;
            const bool is_needed = needed(alias.id);
            wanted[i] = is_needed || !alias.unneeded;
            if (!is_needed && !alias.unneeded)
                unneeded(alias.id);
            alias.unneeded = !is_needed;
            if (wanted[i] && alias.stack != kNoRoom)
                stack_wanted[stack_list_[alias.stack].alike] = true;
        }
        std::vector<Alias> kept;
        for (size_t i = 0; i < ids_.size(); ++i)
            if (wanted[i] || (is_first(ids_[i]) && stack_wanted[ids_[i].stack]))
                kept.push_back(ids_[i]);
        if (kept.size() != id_count_)
            rebuild(kept);
    }
    // An id has come again.
    void touch(uint64_t id) {
        if (const Alias *alias = find(id))
            ids_[static_cast<size_t>(alias - ids_.data())].unneeded = 0;
    }

  private:
    static constexpr uint32_t kNoRoom = UINT32_MAX;

    struct Frame {
        uint64_t pc;
        uint32_t place;
        uint32_t flags : 24;
        uint32_t source : 8;
    };
    struct Stack {
        std::unique_ptr<uint32_t[]> frames;
        uint64_t first_id = 0; // of a stack that a reader cannot tell from it
        uint32_t count = 0;
        int32_t pid = 0;
        uint32_t status = 0;
        uint32_t alike = 0; // the first stack that a reader cannot tell from it
    };
    struct Alias {
        uint64_t id;
        uint32_t stack;
        uint32_t reason : 31;
        uint32_t unneeded : 1; // by the last retain()
    };
    static_assert(sizeof(Frame) == 16 && sizeof(Alias) == 16);

    static dwunw_frame named(const Layout &layout, uint64_t word, size_t index);
    dwunw_frame frame(uint32_t number) const;
    const Alias *find(uint64_t id) const;
    bool is_first(const Alias &alias) const {
        return alias.id != 0 && alias.stack != kNoRoom && stack_list_[alias.stack].first_id == alias.id;
    }

    uint64_t hash(const dwunw_frame &frame, bool exactly) const;
    uint64_t hash(int32_t pid, dwunw_status status, std::span<const dwunw_frame> frames, bool exactly) const;
    bool equal(const Stack &stack, int32_t pid, dwunw_status status, std::span<const dwunw_frame> frames,
               bool exactly) const;
    uint32_t find_frame(const dwunw_frame &frame) const;
    uint32_t take_frame(const dwunw_frame &frame);
    uint32_t take_stack(uint64_t id, int32_t pid, dwunw_status status, std::span<const dwunw_frame> frames);
    void insert(const Alias &added);
    void refuse(uint64_t id);
    void rebuild(const std::vector<Alias> &kept);
    size_t id_bytes() const { return ids_.size() * sizeof(Alias); }
    bool room_for_id() const;

    size_t limit_;
    uint64_t seed_;
    size_t bytes_ = 0; // of stacks and frames
    uint64_t without_room_ = 0;
    uint64_t forgotten_ = 0;

    std::vector<unwind::PlacedModule> places_;
    NumberIndex place_index_;
    std::vector<Frame> frame_list_;
    NumberIndex frame_index_;
    std::vector<Stack> stack_list_;
    NumberIndex exact_index_; // of all stacks
    NumberIndex alike_index_; // of those that are the first of their kind

    std::vector<Alias> ids_; // by hash of the id; an id of 0: free. A power of two of them, or none.
    size_t id_count_ = 0;
    std::vector<bool> refused_; // by hash of the id, those that found no room in ids_
    std::vector<dwunw_frame> scratch_;
};

} // namespace dwunw::bpf
