// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds where a call of a function returns: every return instruction that its code can reach.
//
//     f:   test %rdi,%rdi        one return instruction is f's own; the other one is in g, because f ends in a jump to
//     g
//          je   g
//          ret          ← f
//     g:   …
//          ret          ← g
//
// All paths are followed from the entry: both ways of a conditional jump, the target of a direct jump or of a jump
// through the .got, and the instruction behind a call. A jump to memset or memcpy, each of which may be one of several
// functions, counts as a return itself: they return their first argument, and SP equals SP at the entry there. If
// something cannot be followed, the answer is "unknown", never incomplete: an indirect jump (a switch's table, a tail
// call through a pointer), bytes that are not an instruction, or code outside the file's segments.
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

inline constexpr size_t kMaxFollowed = 1 << 16; // the most instructions to follow
inline constexpr size_t kMaxReturns = 1024;

// The file around the function.
struct CodeMap {
    // Copies code from an address on. Returns the number of bytes; 0 outside code.
    std::function<size_t(LinkAddr, std::span<uint8_t>)> read;
    // Whether another function begins there. A call directly before it does not return.
    std::function<bool(LinkAddr)> is_function;
    // The target of a jump through a slot of the .got.
    struct Target {
        enum class Kind : uint8_t { kUnknown, kCode, kReturnsFirstArgument } kind = Kind::kUnknown;
        LinkAddr code;
    };
    std::function<Target(LinkAddr)> slot_target;
};

struct Returns {
    std::map<LinkAddr, dwunw_probe_result>
        instructions;    // with the result's register; empty: unknown, or there are none
    std::string unknown; // the reason, in words; empty: they are known
};

Returns find_returns(const CodeMap &code, LinkAddr entry);

} // namespace dwunw::probe
