// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stack id → frames. Each change of a process's map gives every stack a new id, so everything is kept only once:
//
//     frame   an address with its module and how it was found; some 40 bytes with its slot in an index
//     stack   the numbers of its frames; 4 bytes a frame
//     id      the number of its stack; 16 bytes in a table that is at most three quarters full
//
// A target chooses its own calls, so memory is limited: stacks and frames may take seven eighths of the limit, ids all
// of it. An id whose stack found no room is remembered as such.
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

    // Keeps stacks of approximately `limit` bytes together. `seed`: of the hashes; targets must not know it.
    explicit StackStore(size_t limit = kDefaultLimit, uint64_t seed = 0) : limit_(limit), seed_(seed) {}

    // Adds a complete stack from the kernel. False: the id already has other frames.
    bool add(uint64_t id, int32_t pid, const Layout &layout, std::span<const __u64> words);
    // Adds a stack from dwunw_capture. False: the id already has other frames.
    bool add(uint64_t id, int32_t pid, dwunw_status status, uint32_t reason, std::span<const dwunw_frame> frames);
    bool contains(uint64_t id) const { return find(id) != nullptr; }

    // DWUNW_ERR_NOT_FOUND; DWUNW_ERR_LIMIT: there was no room for its frames. If even the id found no room, another id
    // may also get this answer.
    dwunw_status lookup(uint64_t id, dwunw_bpf_stack &out, std::span<dwunw_frame> frames) const;

    size_t size() const { return id_count_; }            // ids, with and without frames
    size_t stacks() const { return stack_list_.size(); } // distinct stacks
    size_t bytes() const { return id_bytes() + bytes_; }
    uint64_t without_room() const { return without_room_; } // ids whose frames found no room
    uint64_t forgotten() const { return forgotten_; }
    template <typename Visit> void each(Visit &&visit) const {
        for (const Alias &alias : ids_)
            if (alias.id != 0 && alias.stack != kNoRoom)
                visit(alias.id);
    }

    // Forgets the ids that `needed` refuses now and refused the last time, and that were not touched in between. Calls
    // `unneeded` with those that it refuses for the first time. The first id of a stack stays as long as one of its ids
    // does, because lookup() returns it.
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
    // Notes that an id has come again.
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
        uint64_t first_id = 0; // of a stack that looks the same to a reader
        uint32_t count = 0;
        int32_t pid = 0;
        uint32_t status = 0;
        uint32_t alike = 0; // the first stack that looks the same to a reader
    };
    struct Alias {
        uint64_t id;
        uint32_t stack;
        uint32_t reason : 31;
        uint32_t unneeded : 1; // set by the last retain()
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
    NumberIndex alike_index_; // only the first of stacks that look alike

    std::vector<Alias> ids_; // by hash of the id; id 0: free. Its size is a power of two, or 0.
    size_t id_count_ = 0;
    std::vector<bool> refused_; // by hash of the id: ids that found no room in ids_
    std::vector<dwunw_frame> scratch_;
};

} // namespace dwunw::bpf
