// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds where an FDE's rows "CFA = SP + n" are wrong, because the function's code replaces SP and no row says so:
//
//     runtime.systemstack:   row: CFA = rsp + 8 for the whole function
//         …
//         mov  %rbx, %rsp    from here on SP is on another stack: the rule is lost_rule()
//
// Arch::find_lost_sp() looks at the code, which a callback reads. If code cannot be read, the FDE's rows are used
// unchanged.
#pragma once

#include "arch/arch.h"
#include "base/address.h"
#include "unwind/rule.h"

#include <functional>
#include <span>
#include <vector>

namespace dwunw::unwind {

// Reads code at an address. Returns the number of bytes that could be read from there. Thread-safe.
using ReadCode = std::function<size_t(LinkAddr, std::span<uint8_t>)>;

class LostSp {
  public:
    enum class Order : uint8_t {
        kOneFde,    // reads only the FDEs that are asked for
        kAscending, // all FDEs of a module are asked for: reads big pieces
    };
    // A function longer than kMaxFollowed is not followed: SP is lost from the first instruction on that seems to
    // replace it. In a function longer than kMaxLookedAt, SP is lost everywhere; no compiler writes such a function.
    static constexpr uint64_t kMaxFollowed = uint64_t{512} << 10;
    static constexpr uint64_t kMaxLookedAt = uint64_t{16} << 20;

    // `read` may be empty: then nothing is lost. Both arguments must outlive this.
    LostSp(const ReadCode &read, const arch::Arch &arch, Order order) : read_(read), arch_(arch), order_(order) {}

    // Whether the code [start, end) may replace SP. `start` never decreases from call to call.
    bool may_replace(LinkAddr start, LinkAddr end);
    // The parts of [start, end) where CFA = SP + n is wrong; may_replace() must have returned true for it. Ascending;
    // valid until the next call. `rows`: the FDE's rows, ascending, the first one at 0.
    std::span<const arch::CodeRange> find(LinkAddr start, LinkAddr end, std::span<const arch::SpRow> rows);

    static arch::SpRow row(uint32_t start, const Rule &rule, const arch::Arch &arch);
    // The rule for code where SP is lost.
    static Rule lost_rule() {
        Rule rule;
        rule.cfa_kind = CfaKind::kLost;
        return rule;
    }

  private:
    void read_piece(LinkAddr start, LinkAddr end);
    bool may_contradict(std::span<const uint8_t> code, std::span<const arch::SpRow> rows) const;

    const ReadCode &read_;
    const arch::Arch &arch_;
    const Order order_;
    std::vector<uint8_t> piece_; // [piece_start_, piece_end_), and some bytes behind it
    LinkAddr piece_start_;
    LinkAddr piece_end_;
    LinkAddr next_; // the first candidate in the piece, from the last question on; behind piece_end_: none
    std::vector<uint8_t> function_;
    std::vector<arch::CodeRange> lost_;
};

} // namespace dwunw::unwind
