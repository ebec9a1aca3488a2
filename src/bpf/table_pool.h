// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Copies modules' tables into the pool that BPF programs read. A table is there once, for all processes that map the
// module. An unused table stays until its room is needed.
//
// Not thread-safe.
#pragma once

#include "bpf/block_allocator.h"
#include "process/module.h"

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>

namespace dwunw::bpf {

class TablePool {
  public:
    TablePool(std::span<uint64_t> cells, std::function<bool()> wait)
        : cells_(cells), blocks_(static_cast<uint32_t>(cells.size()), std::move(wait)) {}

    // The first cell of a module's table. Compiles and copies the table if it is not there. Each call needs one
    // release(). nullopt: no room; this is counted.
    std::optional<uint32_t> acquire(const process::Module &file, const unwind::Table &compiled);
    void release(const process::Module &file);

    size_t bytes() const { return cells_.size_bytes(); }
    size_t bytes_used() const { return size_t{blocks_.used()} * sizeof(uint64_t); }
    size_t modules() const { return tables_.size(); }
    uint64_t without_room() const { return without_room_; }
    uint64_t rules_left_to_user() const;

  private:
    struct Table {
        uint32_t first = 0;
        uint32_t count = 0;
        uint32_t users = 0;
        uint32_t rules_left_to_user = 0;
        std::list<const process::Module *>::iterator unused; // valid if users is 0
    };

    std::optional<uint32_t> room(uint32_t count);

    std::span<uint64_t> cells_;
    BlockAllocator blocks_;
    std::unordered_map<const process::Module *, Table> tables_;
    std::list<const process::Module *> unused_; // least recently used first
    uint64_t without_room_ = 0;
};

} // namespace dwunw::bpf
