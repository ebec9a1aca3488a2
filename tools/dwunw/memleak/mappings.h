// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The mappings that programs have made by mmap and not ended yet, as intervals: munmap, mremap and MAP_FIXED can end or
// replace any part of them.
//
//     mmap             [---------------------)
//     munmap a part    [------)      [-------)      two pieces, with the stack and birth of the mmap
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace dwunw_tool::memleak {

struct Mapping {
    uint64_t start, end;
    int64_t stack;
    uint64_t born;
    bool is_thread_stack; // MAP_STACK: a thread library made it
};

class Mappings {
  public:
    // `mapping` replaces what was mapped there. `length` is rounded up to pages.
    void map(uint32_t process, uint64_t address, uint64_t length, int64_t stack, uint64_t born, bool is_thread_stack);
    // A thread's munmap or mremap begins. It ends the pages at once, because another thread may get their addresses
    // before the call returns; unmap_failed() of the same thread brings them back.
    void unmap(uint32_t process, uint32_t tid, uint64_t address, uint64_t length);
    void unmap_failed(uint32_t process, uint32_t tid);
    // The thread's mremap, of which unmap() told, has succeeded. What was not known at `old` becomes known at
    // `address`, with the mremap's stack; the rest keeps the stack and birth of its mmap if the length stays, and gets
    // the mremap's if the mapping grows. `old_length` 0: the old mapping stays.
    void remap(uint32_t process, uint32_t tid, uint64_t old, uint64_t old_length, uint64_t address, uint64_t length,
               int64_t stack, uint64_t born);
    // The process's memory is gone.
    void drop(uint32_t process);

    void each(const std::function<void(uint32_t process, const Mapping &)> &visit) const;
    size_t count() const;

  private:
    using Pieces = std::map<uint64_t, Mapping>; // by start; they do not overlap
    static std::vector<Mapping> cut(Pieces &pieces, uint64_t start, uint64_t end);

    std::map<uint32_t, Pieces> processes_;
    struct Unmapped {
        uint32_t process;
        uint64_t start;
        std::vector<Mapping> pieces;
    };
    std::map<uint32_t, Unmapped> unmapped_; // by thread: what its last munmap or mremap ended
};

} // namespace dwunw_tool::memleak
