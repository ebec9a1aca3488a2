// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// User space's half of the tables of outstanding blocks (bpf/blocks.bpf.h): makes them, reads them, drops the blocks of
// processes that are gone.
#pragma once

#include "command.h"
#include "memleak/kernel_types.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dwunw_tool::memleak {

// A block as the report sees it.
struct Block {
    uint64_t address;
    uint32_t process; // its number
    uint64_t size;
    uint32_t kind;  // enum memleak_kind
    uint32_t shift; // one in 1 << shift was recorded when it was
    int64_t stack;
    uint64_t born; // CLOCK_MONOTONIC, ns
};

Block make_block(uint64_t key, const memleak_block &block);

class Blocks {
  public:
    // The maps' descriptors, and the words in the BPF program's memory. `max_bytes` limits the memory of all tables.
    struct Kernel {
        int tables_fd;
        uint32_t *buckets;
        uint32_t *count;
        uint64_t *report_began;
    };
    Blocks(Kernel kernel, uint64_t max_bytes);
    ~Blocks();
    Blocks(const Blocks &) = delete;
    Blocks &operator=(const Blocks &) = delete;

    // Adds a table. False: the kernel refused (errno), or the limit is reached (ENOSPC).
    bool grow();
    // Grows until `live` blocks fill at most nine tenths of the slots, and as long as there is room.
    void make_room(uint64_t live);

    uint64_t slots() const;
    uint64_t bytes() const;

    // Calls `visit` for every block that was alive at one moment, the beginning of this call: never twice, none missed,
    // whatever the programs do meanwhile. Returns that moment (CLOCK_MONOTONIC, ns). `drain` empties the event ring and
    // hands the events of MEMLEAK_EVENT_FREED to note_freed(). `is_gone` says whether a process's blocks are to be
    // dropped; they are not visited.
    uint64_t read(const std::function<void(const Block &)> &visit, const std::function<bool(uint32_t)> &is_gone,
                  const std::function<void()> &drain);
    void note_freed(const memleak_event &event);

    // Slots that stayed busy while a report read them.
    uint64_t unreadable() const { return unreadable_; }

  private:
    struct Table {
        int fd;
        uint64_t buckets;
    };
    bool read_piece(const Table &table, uint64_t first, uint64_t count, const std::function<void(const Block &)> &visit,
                    const std::function<bool(uint32_t)> &is_gone);

    Kernel kernel_;
    uint64_t max_bytes_;
    std::vector<Table> tables_;
    std::vector<memleak_event> freed_; // since the last look
    std::vector<Block> piece_;         // the blocks of the piece that is being read
    uint64_t began_ = 0;
    uint64_t unreadable_ = 0;
};

} // namespace dwunw_tool::memleak
