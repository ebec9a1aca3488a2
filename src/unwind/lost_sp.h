// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Where an FDE's rows "CFA = SP + n" do not hold, because the function's code replaces SP and no row says so: a
// module's code, looked at for what Arch::find_lost_sp() finds in it.
//
// The code is a callback's. Where it cannot be had, an FDE is taken at its word.
#pragma once

#include "arch/arch.h"
#include "base/address.h"
#include "unwind/rule.h"

#include <functional>
#include <span>
#include <vector>

namespace dwunw::unwind {

// Reads code at an address; returns how many bytes from there on could be read. Thread-safe.
using ReadCode = std::function<size_t(LinkAddr, std::span<uint8_t>)>;

class LostSp {
  public:
    enum class Order : uint8_t {
        kOneFde,    // no more is read than the FDEs that are asked for
        kAscending, // all of a module's are asked for: read in big pieces
    };
    // A function longer than this is not followed: from the first place on that looks like a replacement, SP is lost.
    // In one longer than that, SP is lost everywhere: nobody writes such functions.
    static constexpr uint64_t kMaxFollowed = uint64_t{512} << 10;
    static constexpr uint64_t kMaxLookedAt = uint64_t{16} << 20;

    // `read` may be empty: nothing is lost then. Both must outlive this.
    LostSp(const ReadCode &read, const arch::Arch &arch, Order order) : read_(read), arch_(arch), order_(order) {}

    // Whether the code [start, end) may replace SP. `start` never goes back.
    bool may_replace(LinkAddr start, LinkAddr end);
    // Where in [start, end), of which may_replace() said yes, CFA = SP + n does not hold. Ascending; until the next
    // call. `rows`: those of the FDE, ascending, the first one at 0.
    std::span<const arch::CodeRange> find(LinkAddr start, LinkAddr end, std::span<const arch::SpRow> rows);

    static arch::SpRow row(uint32_t start, const Rule &rule, const arch::Arch &arch);
    // What stands for a rule where SP is lost.
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
    LinkAddr next_; // the first place in the piece, from the last question on; behind piece_end_ where there is none
    std::vector<uint8_t> function_;
    std::vector<arch::CodeRange> lost_;
};

} // namespace dwunw::unwind
