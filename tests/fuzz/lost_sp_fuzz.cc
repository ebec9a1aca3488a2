// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares a function's code with its rows. Proves that, on every path of the code, no row is kept at an instruction
// where SP is elsewhere than the row says; that only rows "CFA = SP + n" are left out; and that a module's table and
// its FDEs, both with code, give the same answers.
//
// Input: the number of rows (a byte), for each whether its CFA comes from SP, the number of words from there to the
// CFA, and the distance to the next row (a byte each); the number of bytes of code (2 bytes), these; hostile_cfi.h's
// input, whose functions repeat that code.
#include "arch/x86_64/arch.h"
#include "arch/x86_64/sp_instruction.h"
#include "fuzz.h"
#include "hostile_cfi.h"
#include "unwind/module_cfi.h"

#include <elf.h>

#include <optional>

namespace dwunw {
namespace {

using arch::CodeRange;
using arch::SpRow;
using arch::x86_64::decode_sp_instruction;
using arch::x86_64::SpInstruction;
using fuzz::require;
using Kind = SpInstruction::Kind;

constexpr size_t kMaxCode = 1024;
constexpr uint64_t kStart = 0x1000;
constexpr uint64_t kEnd = 0x10000;

// The instructions' meaning, one way through them at a time: a slow reading of what find_lost_sp() does for all ways.
class Function {
  public:
    Function(std::span<const uint8_t> code, std::span<const SpRow> rows) : code_(code), rows_(rows) {
        arch::x86_64::find_lost_sp(code, rows, lost_);
        for (size_t at = 0; at < code.size();) {
            const SpInstruction what = decode_sp_instruction(code.subspan(at));
            if (what.kind == Kind::kUnknown) {
                ++at;
                continue;
            }
            begins_[at] = true;
            replaces_ |= is_unsaid(at, what);
            at += what.length;
        }
    }

    void check_ranges() const {
        uint32_t last = 0;
        for (const CodeRange &range : lost_) {
            require(range.start >= last && range.start < range.end && range.end <= code_.size(), "ranges ascend");
            require(row_at(range.start).from_sp, "what is lost was SP's");
            last = range.end;
        }
        require(replaces_ || lost_.empty(), "a function that replaces nothing is taken at its word");
    }

    // `choice` decides at each branch.
    void run(uint64_t choice) const {
        constexpr int kSteps = 400;
        std::optional<int64_t> distance; // nothing: as the row says
        bool elsewhere = false;
        size_t at = 0;
        for (int step = 0; step < kSteps && at < code_.size() && begins_[at]; ++step) {
            const SpInstruction what = decode_sp_instruction(code_.subspan(at));
            const SpRow &row = row_at(at);
            const SpRow &behind = row_at(at + what.length);
            if (!row.from_sp) {
                distance.reset();
                elsewhere = false;
            } else if (!elsewhere && !distance) {
                distance = row.cfa_offset;
            }
            const bool returns = what.kind == Kind::kReturns && row.cfa_offset == 8;
            if (replaces_ && row.from_sp && !returns && (elsewhere || distance != row.cfa_offset))
                require(is_lost(at), "no row is kept where SP is elsewhere");
            size_t next = at + what.length;
            switch (what.kind) {
            case Kind::kAdds:
                if (distance)
                    *distance -= what.value;
                break;
            case Kind::kReplaces:
                elsewhere = is_unsaid(at, what);
                distance.reset();
                break;
            case Kind::kCalls:
                if (row.from_sp && behind.from_sp && row.cfa_offset != behind.cfa_offset)
                    return;
                break;
            case Kind::kBranches:
                choice = choice * 6364136223846793005u + 1442695040888963407u;
                if (choice >> 63 != 0)
                    next += static_cast<size_t>(what.value);
                break;
            case Kind::kJumps:
                next += static_cast<size_t>(what.value);
                break;
            case Kind::kOther:
                break;
            default:
                return;
            }
            at = next;
        }
    }

  private:
    const SpRow &row_at(size_t at) const {
        size_t row = 0;
        while (row + 1 < rows_.size() && rows_[row + 1].start <= at)
            ++row;
        return rows_[row];
    }
    bool is_unsaid(size_t at, const SpInstruction &what) const {
        const SpRow &row = row_at(at);
        const SpRow &behind = row_at(at + what.length);
        return what.kind == Kind::kReplaces && row.from_sp && behind.from_sp && row.cfa_offset == behind.cfa_offset;
    }
    bool is_lost(size_t at) const {
        return std::ranges::any_of(lost_, [at](const CodeRange &range) { return range.start <= at && at < range.end; });
    }

    std::span<const uint8_t> code_;
    std::span<const SpRow> rows_;
    std::vector<CodeRange> lost_;
    std::array<bool, kMaxCode> begins_{};
    bool replaces_ = false;
};

std::unique_ptr<unwind::ModuleCfi> module_of(const fuzz::HostileCfi &cfi, std::span<const uint8_t> code) {
    unwind::CfiInput input;
    input.eh_frame = SectionBytes{cfi.section.data(), LinkAddr(0x800000)};
    input.machine = EM_X86_64;
    if (!code.empty())
        input.read_code = [code](LinkAddr address, std::span<uint8_t> buffer) {
            for (size_t i = 0; i < buffer.size(); ++i)
                buffer[i] = code[(address.value + i) % code.size()];
            return buffer.size();
        };
    auto module = unwind::ModuleCfi::build(std::move(input));
    require(module.ok(), "a section is enough for a module");
    return std::move(*module);
}

bool overlap(const fuzz::HostileCfi &cfi) {
    for (size_t i = 1; i < cfi.functions.size(); ++i)
        if (cfi.functions[i].start < cfi.functions[i - 1].start + cfi.functions[i - 1].length)
            return true;
    return false;
}

void check_module(const fuzz::HostileCfi &cfi, std::span<const uint8_t> code) {
    // Each answer of a single FDE reads the function anew.
    constexpr uint64_t kLooked = 48;
    constexpr uint64_t kLongest = 1024;
    const auto as_written = module_of(cfi, {});
    const auto single = module_of(cfi, code);
    const auto compiled = module_of(cfi, code);
    require(compiled->compile().ok(), "what is at hand can be compiled");
    const bool overlapping = overlap(cfi); // there, a table knows where the next function begins
    for (const auto &function : cfi.functions) {
        if (function.length > kLongest)
            continue;
        for (uint64_t at = function.start; at < function.start + std::min(function.length, kLooked); ++at) {
            const auto by_fde = single->rule_at(LinkAddr(at));
            const auto by_table = compiled->rule_at(LinkAddr(at));
            const auto written = as_written->rule_at(LinkAddr(at));
            require(by_table.status == written.status && by_fde.status == written.status, "code changes no status");
            require(by_fde.end > LinkAddr(at) && by_table.end > LinkAddr(at), "an answer holds for a byte at least");
            if (written.status != DWUNW_OK)
                continue;
            require(overlapping || by_fde.rule == by_table.rule, "a table and an FDE have the same rule");
            for (const auto *found : {&by_fde, &by_table})
                require(found->rule == written.rule || (found->rule.cfa_kind == unwind::CfaKind::kLost &&
                                                        written.rule.cfa_kind == unwind::CfaKind::kRegister &&
                                                        written.rule.cfa_reg == testing::RSP),
                        "a rule is what is written, or lost");
        }
    }
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    constexpr uint8_t kMaxRows = 15;
    constexpr uint64_t kWays = 16;
    Cursor cursor({data, size});
    std::vector<SpRow> rows;
    const unsigned count = 1 + (cursor.u8() & kMaxRows);
    for (uint32_t i = 0, start = 0; i < count; ++i) {
        rows.push_back({start, cursor.u8() % 4 != 0, static_cast<int8_t>(cursor.u8()) * 8});
        start += 1 + cursor.u8();
    }
    const auto code = fuzz::take(cursor, std::min<size_t>(cursor.u16(), kMaxCode));
    const Function function(code, rows);
    function.check_ranges();
    for (uint64_t way = 0; way < kWays; ++way)
        function.run(way * 0x9e3779b97f4a7c15u);
    const auto cfi = fuzz::hostile_cfi(cursor, 8, kStart, kEnd);
    check_module(cfi, code);
    return 0;
}
