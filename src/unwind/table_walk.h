// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A walk that takes no memory and no lock, so that a signal handler may do it: compiled tables and the slice, nothing
// else. It stops with DWUNW_ERR_WOULD_BLOCK where walk() would need more. Every frame before that is walk()'s; only its
// `source` may be DWUNW_SOURCE_CFI where walk() says DWUNW_SOURCE_INTERPRETER, because a later frame needed that.
#pragma once

#include "unwind/registers.h"
#include "unwind/stack_memory.h"
#include "unwind/table.h"
#include "unwind/walk.h"

#include <span>

namespace dwunw::unwind {

// A mapping of a module's code, and the module's table.
struct TableCode {
    RunAddr start;
    RunAddr end;
    const dwunw_module *module = nullptr;
    LoadBias bias{};
    const Table *table = nullptr;
};

class TableSpace {
  public:
    virtual ~TableSpace() = default;
    // The code that is mapped at `address`; nullptr where that is not known for certain now. Neither allocates nor
    // locks. The result lives as long as the space.
    virtual const TableCode *find(RunAddr address) const = 0;
};

struct TableWalkRequest {
    const TableSpace &space;
    const arch::Arch &arch;
    const Registers &registers; // pc (at arch.pc) and SP known
    const StackMemory &memory;  // without readers
    std::span<dwunw_frame> frames;
};

// DWUNW_OK at the outermost frame, DWUNW_ERR_WOULD_BLOCK, DWUNW_ERR_SLICE_EXHAUSTED, DWUNW_ERR_FRAME_LIMIT. Writes no
// frame where the first pc is not known. Thread-safe as far as `space` is.
WalkResult walk_by_tables(const TableWalkRequest &request);

} // namespace dwunw::unwind
