// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Where a call of a function returns: every return instruction that its code can come to.
//
//     f:   test %rdi,%rdi        one return instruction is f's own, the other lies in the function that f ends in a
//          je   g                jump to
//          ret          ← f
//     g:   …
//          ret          ← g
//
// All paths are followed from the entry: both ways of a conditional jump, the target of a direct one or of one through
// the .got, and past a call. A jump to memset or memcpy, which may be any of several functions, counts as a return
// itself: those return their first argument, and SP is the entry's there. What cannot be followed makes the answer
// unknown, never incomplete: an indirect jump (a switch's table, a tail call through a pointer), bytes that are no
// instruction, code outside the file's segments.
//
// Proved by tests/unit/probe_return_instructions_test, and by tests/integration/return_probes_test.py on real
// allocators.
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <dwunw/probe_placement.h>

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

namespace dwunw::probe {

inline constexpr size_t kMaxFollowed = 1 << 16; // instructions
inline constexpr size_t kMaxReturns = 1024;

// The file around the function.
struct CodeMap {
    // Copies code from an address on; how many bytes there were. 0 outside code.
    std::function<size_t(LinkAddr, std::span<uint8_t>)> read;
    // Whether another function begins there. A call before that does not return.
    std::function<bool(LinkAddr)> is_function;
    // Where a jump through a slot of the .got leads.
    struct Target {
        enum class Kind : uint8_t { kUnknown, kCode, kReturnsFirstArgument } kind = Kind::kUnknown;
        LinkAddr code;
    };
    std::function<Target(LinkAddr)> slot_target;
};

struct Returns {
    std::map<LinkAddr, dwunw_probe_result> instructions; // and where the result is; empty: unknown, or there are none
    std::string unknown;                                 // why, in words; empty: known
};

Returns find_returns(const CodeMap &code, LinkAddr entry);

} // namespace dwunw::probe
