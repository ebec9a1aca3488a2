// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The rows of a report: one for each call chain, whatever ids its stacks have, and for each kind of memory.
#pragma once

#include "memleak/blocks.h"

#include <dwunw/bpf_stacks.h>

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

namespace dwunw_tool::memleak {

// What a row's memory is.
enum class Memory {
    kHeap,
    kMapping,     // mmap
    kThreadStack, // mmap by a thread library
    kAllocator,   // mmap by an allocator, for itself
};

// The blocks of a stack, added up.
struct Amount {
    uint64_t bytes = 0, count = 0;
    uint64_t oldest = UINT64_MAX;                    // birth
    double estimated_bytes = 0, estimated_count = 0; // with sampling: of all blocks, not only the recorded ones
    double variance = 0;                             // of estimated_bytes
    std::vector<Block> blocks;                       // if they are kept

    // A block that was recorded with this probability (sampling.h); 0: it stands for nothing.
    void add(const Block &block, double probability, bool keep);
    void add(const Amount &other);
};

struct Row {
    Memory memory = Memory::kHeap;
    uint64_t key = 0;    // the same in each report
    int64_t stack = 0;   // the first id with these frames; negative: there is no stack, and −stack says why
    uint32_t status = 0; // enum dwunw_status: why the stack is not complete
    Amount amount;
};

// The stack is not known: neither an id nor a reason that the kernel half gave.
constexpr int64_t kStackNotKept = -1000;

// "heap", "mapped", "thread stacks", "allocator"
const char *name_of(Memory memory);

class Rows {
  public:
    // The frames come from `bpf`. Outlived by it.
    explicit Rows(const dwunw_bpf *bpf) : bpf_(bpf) {}

    // The row of a stack and a kind of memory. Valid until the next call.
    Row &of(int64_t stack, Memory memory);

    const std::vector<Row> &rows() const { return rows_; }
    std::vector<Row> &rows() { return rows_; }
    // Frames of a row's stack, at most kMaxFrames.
    std::vector<dwunw_frame> frames(const Row &row) const;
    // Ids of all stacks that have rows, for dwunw_bpf_retain.
    std::vector<uint64_t> ids() const;

    static constexpr size_t kMaxFrames = 4096;

  private:
    struct Chain {
        int64_t first; // id
        uint32_t status;
        uint64_t hash;
    };
    const Chain &chain_of(int64_t stack);
    bool same_frames(int64_t one, int64_t other) const;
    size_t read_frames(int64_t stack, std::vector<dwunw_frame> &frames, dwunw_bpf_stack &out) const;

    const dwunw_bpf *bpf_;
    std::unordered_map<int64_t, Chain> chains_;            // by id
    std::unordered_multimap<uint64_t, int64_t> by_frames_; // hash of the frames → first id
    std::map<std::pair<int64_t, Memory>, size_t> row_of_;  // by first id
    std::vector<Row> rows_;
    mutable std::vector<dwunw_frame> one_, other_;
};

} // namespace dwunw_tool::memleak
