// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds where a function's rows "CFA = SP + n" are wrong, because its code has moved SP and no row says so. Go's
// runtime switches stacks in such functions; the only row in its .debug_frame is CFA = rsp+8:
//
//     mov %rsp, %rdx
//     mov 0x38(%rsi), %rsp     the system stack; from here on, rsp+8 is a word of another function
//     …
//     call *%rax               a walk would take that word for the caller of this frame
//     …
//     mov %rsi, %rsp           back again
//     ret
//
// The code is followed instruction by instruction, with the known value of CFA − SP before each one. Constants change
// it: push, pop, add, sub, lea n(%rsp). Any other write replaces SP. The rows are trusted at such a write if they show
// that their author knew of it: the row before or the row behind takes the CFA from elsewhere (the usual end of a
// frame-pointer function), or the two rows differ. Otherwise CFA − SP is lost from there on along every path, until the
// rows take the CFA from elsewhere. A row is right at an instruction if it gives the value that was found.
//
// `ret` is an exception: SP always points to the return address there, so CFA = rsp+8 is right.
//
// Three facts about code are unknown, and the rows are trusted:
//   - a call behind which the CFA has another distance does not return;
//   - a place that no branch leads to (a jump table's, a landing pad) is entered as its row says, unless an indirect
//     jump leaves with SP lost;
//   - bytes that are not an instruction are not followed.
//
// A function is decoded only if find_sp_replacement() finds something in it, which is rare. That search compares three
// bytes at each place, in a form that compilers turn into vector instructions. It does not look for `pop %rsp`,
// `leave`, cmov and rarer instructions, because their bytes are too common; but they count in a function that is
// decoded.
//
// Proved by tests/unit/arch_x86_64_lost_sp_test.
#include "arch/x86_64/arch.h"
#include "arch/x86_64/sp_instruction.h"

#include <algorithm>
#include <limits>

namespace dwunw::arch::x86_64 {
namespace {

using Kind = SpInstruction::Kind;

// Whether three bytes are REX with the operand's size, an opcode, and a ModRM that names SP. No short circuits: the
// compiler computes it for many places at once.
constexpr uint8_t may_replace(uint8_t rex, uint8_t opcode, uint8_t modrm) {
    // mov, lea, xchg, add, sub, and: SP is ModRM's register
    const bool to_reg = ((opcode == 0x8b) | (opcode == 0x8d) | (opcode == 0x87) | (opcode == 0x03) | (opcode == 0x2b) |
                         (opcode == 0x23)) &
                        ((modrm & 0x38) == 0x20) & ((rex & 0xfc) == 0x48);
    // mov, xchg, add, sub, and: SP is its operand
    const bool to_rm = ((opcode == 0x89) | (opcode == 0x87) | (opcode == 0x01) | (opcode == 0x29) | (opcode == 0x21)) &
                       ((modrm & 0xc7) == 0xc4) & ((rex & 0xf9) == 0x48);
    // and with a constant
    const bool aligns =
        ((opcode == 0x81) | (opcode == 0x83) | (opcode == 0x80)) & (modrm == 0xe4) & ((rex & 0xf1) == 0x40);
    // xchg %rax, %rsp
    const bool swaps = (rex == 0x48) & (opcode == 0x94);
    return to_reg | to_rm | aligns | swaps;
}

// The known value before an instruction: the distance from SP to the CFA, or one of these constants, which no row uses.
constexpr int64_t kUnseen = std::numeric_limits<int64_t>::min();
constexpr int64_t kLost = kUnseen + 1;
constexpr int64_t kByRow = kUnseen + 2; // the CFA comes from elsewhere, and gives SP's place later

class SpFlow {
  public:
    SpFlow(std::span<const uint8_t> code, std::span<const SpRow> rows) : code_(code), rows_(rows) {}

    void find_lost(std::vector<CodeRange> &lost) {
        decode();
        if (!replaces_unsaid())
            return;
        follow_all(false);
        if (jumps_lost_)
            follow_all(true);
        for (const Instruction &at : instructions_) {
            const SpRow &row = row_of(at);
            const bool returns = at.what.kind == Kind::kReturns && row.cfa_offset == 8;
            if (!row.from_sp || at.before == row.cfa_offset || returns)
                continue;
            if (!lost.empty() && lost.back().end == at.start)
                lost.back().end = at.end();
            else
                lost.push_back({at.start, at.end()});
        }
    }

  private:
    static constexpr uint32_t kNowhere = std::numeric_limits<uint32_t>::max();

    struct Instruction {
        uint32_t start;
        uint32_t row;     // an index into rows_
        uint32_t row_end; // of the byte behind the instruction
        int64_t before;
        SpInstruction what;
        uint32_t end() const { return start + what.length; }
    };

    // Decodes one instruction after the other. If no instruction begins at a byte, the next byte is tried.
    void decode() {
        index_.assign(code_.size(), kNowhere);
        uint32_t row = 0;
        for (uint32_t at = 0; at < code_.size();) {
            const SpInstruction what = decode_sp_instruction(code_.subspan(at));
            if (what.kind == Kind::kUnknown) {
                ++at;
                continue;
            }
            while (row + 1 < rows_.size() && rows_[row + 1].start <= at)
                ++row;
            uint32_t row_end = row;
            while (row_end + 1 < rows_.size() && rows_[row_end + 1].start <= at + what.length)
                ++row_end;
            index_[at] = static_cast<uint32_t>(instructions_.size());
            instructions_.push_back({at, row, row_end, kUnseen, what});
            at += what.length;
        }
    }

    const SpRow &row_of(const Instruction &at) const { return rows_[at.row]; }

    // Whether an instruction replaces SP and the rows do not say so.
    bool is_unsaid(const Instruction &at) const {
        const SpRow &before = rows_[at.row];
        const SpRow &behind = rows_[at.row_end];
        return at.what.kind == Kind::kReplaces && before.from_sp && behind.from_sp &&
               before.cfa_offset == behind.cfa_offset;
    }
    bool replaces_unsaid() const {
        return std::ranges::any_of(instructions_, [this](const Instruction &at) { return is_unsaid(at); });
    }

    void follow_all(bool jumps_were_lost) {
        for (Instruction &at : instructions_)
            at.before = kUnseen;
        for (uint32_t i = 0; i < instructions_.size(); ++i) {
            if (instructions_[i].before != kUnseen)
                continue;
            // No earlier code leads here.
            arrive(i, i > 0 && jumps_were_lost ? kLost : kByRow);
            while (!todo_.empty()) {
                const uint32_t next = todo_.back();
                todo_.pop_back();
                leave(next);
            }
        }
    }

    // The value at an instruction can only change from unseen to a distance, and from that to lost. So each instruction
    // is visited at most twice.
    void arrive(uint32_t index, int64_t distance) {
        Instruction &at = instructions_[index];
        const SpRow &row = row_of(at);
        if (!row.from_sp)
            distance = kByRow;
        else if (distance == kByRow)
            distance = row.cfa_offset;
        if (at.before == distance)
            return;
        at.before = at.before == kUnseen ? distance : kLost;
        todo_.push_back(index);
    }
    void arrive_at(int64_t offset, int64_t distance) {
        if (offset >= 0 && static_cast<uint64_t>(offset) < index_.size() &&
            index_[static_cast<size_t>(offset)] != kNowhere)
            arrive(index_[static_cast<size_t>(offset)], distance);
    }

    void leave(uint32_t index) {
        const Instruction &at = instructions_[index];
        const SpRow &before = rows_[at.row];
        const SpRow &behind = rows_[at.row_end];
        int64_t distance = at.before;
        switch (at.what.kind) {
        case Kind::kOther:
            break;
        case Kind::kAdds:
            distance = moved(distance, at.what.value);
            break;
        case Kind::kReplaces:
            distance = is_unsaid(at) ? kLost : kByRow;
            break;
        case Kind::kCalls:
            if (before.from_sp && behind.from_sp && before.cfa_offset != behind.cfa_offset)
                return;
            break;
        case Kind::kBranches:
            arrive_at(int64_t{at.end()} + at.what.value, distance);
            break;
        case Kind::kJumps:
            arrive_at(int64_t{at.end()} + at.what.value, distance);
            return;
        case Kind::kJumpsByValue:
            jumps_lost_ |= before.from_sp && distance != before.cfa_offset;
            return;
        case Kind::kReturns:
        case Kind::kStops:
        case Kind::kUnknown:
            return;
        }
        arrive_at(at.end(), distance);
    }

    // The distance after SP = SP + value.
    static int64_t moved(int64_t distance, int64_t value) {
        if (distance <= kByRow)
            return distance;
        using Offset = std::numeric_limits<int32_t>;
        const int64_t now = distance - value;
        return now < Offset::min() || now > Offset::max() ? kLost : now;
    }

    std::span<const uint8_t> code_;
    std::span<const SpRow> rows_;
    std::vector<Instruction> instructions_;
    std::vector<uint32_t> index_; // by offset
    std::vector<uint32_t> todo_;
    bool jumps_lost_ = false;
};

} // namespace

size_t find_sp_replacement(std::span<const uint8_t> code, size_t from) {
    constexpr size_t kAtOnce = 64;
    constexpr size_t kBytes = 3;
    size_t at = from;
    while (at < code.size() && code.size() - at >= kAtOnce + kBytes - 1) {
        const uint8_t *bytes = code.data() + at;
        uint8_t any = 0;
        for (size_t i = 0; i < kAtOnce; ++i)
            any |= may_replace(bytes[i], bytes[i + 1], bytes[i + 2]);
        if (any != 0)
            break;
        at += kAtOnce;
    }
    for (; at + 1 < code.size(); ++at)
        if (may_replace(code[at], code[at + 1], at + 2 < code.size() ? code[at + 2] : 0) != 0)
            return at;
    return code.size();
}

void find_lost_sp(std::span<const uint8_t> code, std::span<const SpRow> rows, std::vector<CodeRange> &lost) {
    if (!rows.empty())
        SpFlow(code, rows).find_lost(lost);
}

} // namespace dwunw::arch::x86_64
