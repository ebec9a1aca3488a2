// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/bpf_table_encoding_test: every kind of rule, decoded as in the BPF walk.
#include "bpf/table_encoding.h"

#include <dwunw/bpf/dwunw_types.h>

#include <bit>
#include <cstring>
#include <limits>
#include <optional>

namespace dwunw::bpf {
namespace {

using unwind::CfaKind;
using unwind::Rule;
using unwind::ValueKind;

static_assert(std::endian::native == std::endian::little);
static_assert(unwind::table_format::kPageBits == 16 && unwind::table_format::kBlockBits == 10 &&
              unwind::table_format::kSlotBits == 6 && unwind::table_format::kEntryBits == 12 &&
              unwind::table_format::kFirstRule == 2 && unwind::table_format::kUniformPage == 0x80000000);

constexpr uint64_t kElsewhere = DWUNW_RULE_CFA_ELSEWHERE;

bool fits(int64_t value, unsigned bits) {
    const int64_t limit = int64_t{1} << (bits - 1);
    return value >= -limit && value < limit;
}

uint64_t field(int64_t value, unsigned shift, unsigned bits) {
    return (static_cast<uint64_t>(value) & ((uint64_t{1} << bits) - 1)) << shift;
}

// `at_sp` or `at_fp`, for a register that the walk carries.
template <typename Kind>
std::optional<uint64_t> by_register(uint8_t reg, const arch::Arch &arch, Kind at_sp, Kind at_fp) {
    if (reg == arch.sp)
        return at_sp;
    if (reg == arch.fp)
        return at_fp;
    return std::nullopt;
}

std::optional<uint64_t> cfa_word(const Rule &rule, const arch::Arch &arch) {
    std::optional<uint64_t> kind;
    int64_t addend = rule.cfa_addend;
    switch (rule.cfa_kind) {
    case CfaKind::kRegister:
        kind = by_register(rule.cfa_reg, arch, DWUNW_RULE_CFA_SP, DWUNW_RULE_CFA_FP);
        break;
    case CfaKind::kDeref:
        kind = by_register(rule.cfa_reg, arch, DWUNW_RULE_CFA_AT_SP, DWUNW_RULE_CFA_AT_FP);
        if (addend % 8 != 0)
            return std::nullopt;
        addend /= 8;
        break;
    case CfaKind::kPlt:
        if (rule.cfa_reg == arch.sp && addend >= 0)
            kind = DWUNW_RULE_CFA_PLT;
        break;
    case CfaKind::kExpression:
    case CfaKind::kLost: // user space finds the reason
        break;
    }
    if (!kind || !fits(rule.cfa_offset, DWUNW_RULE_CFA_OFFSET_BITS) || !fits(addend, DWUNW_RULE_ADDEND_BITS))
        return std::nullopt;
    return *kind | field(rule.cfa_offset, DWUNW_RULE_CFA_OFFSET_SHIFT, DWUNW_RULE_CFA_OFFSET_BITS) |
           field(addend, DWUNW_RULE_ADDEND_SHIFT, DWUNW_RULE_ADDEND_BITS);
}

std::optional<uint64_t> ra_word(const Rule &rule, const arch::Arch &arch) {
    std::optional<uint64_t> kind;
    if (rule.ra_kind == ValueKind::kAtCfa)
        kind = DWUNW_RULE_RA_AT_CFA;
    else if (rule.ra_kind == ValueKind::kAtRegister)
        kind = by_register(rule.ra_reg, arch, DWUNW_RULE_RA_AT_SP, DWUNW_RULE_RA_AT_FP);
    if (!kind || !fits(rule.ra_offset, DWUNW_RULE_RA_OFFSET_BITS))
        return std::nullopt;
    return *kind << DWUNW_RULE_RA_SHIFT | field(rule.ra_offset, DWUNW_RULE_RA_OFFSET_SHIFT, DWUNW_RULE_RA_OFFSET_BITS);
}

std::optional<uint64_t> fp_word(const Rule &rule, const arch::Arch &arch) {
    std::optional<uint64_t> kind;
    switch (rule.fp_kind) {
    case ValueKind::kSame:
        kind = DWUNW_RULE_FP_SAME;
        break;
    case ValueKind::kUndefined:
        kind = DWUNW_RULE_FP_UNDEFINED;
        break;
    case ValueKind::kAtCfa:
        kind = DWUNW_RULE_FP_AT_CFA;
        break;
    case ValueKind::kCfaPlus:
        kind = DWUNW_RULE_FP_CFA_PLUS;
        break;
    case ValueKind::kAtRegister:
        kind = by_register(rule.fp_reg, arch, DWUNW_RULE_FP_AT_SP, DWUNW_RULE_FP_AT_FP);
        break;
    default:
        break;
    }
    if (!kind || !fits(rule.fp_offset, DWUNW_RULE_FP_OFFSET_BITS))
        return std::nullopt;
    return *kind << DWUNW_RULE_FP_SHIFT | field(rule.fp_offset, DWUNW_RULE_FP_OFFSET_SHIFT, DWUNW_RULE_FP_OFFSET_BITS);
}

// `count` cells for `bytes` bytes.
size_t cells_for(size_t bytes) { return (bytes + 7) / 8; }

template <typename T> void copy_to(std::vector<uint64_t> &cells, size_t at, std::span<const T> from) {
    if (!from.empty())
        std::memcpy(cells.data() + at, from.data(), from.size_bytes());
}

} // namespace

uint64_t rule_word(const Rule &rule, const arch::Arch &arch) {
    const uint64_t signal = rule.signal_frame ? DWUNW_RULE_SIGNAL : 0;
    if (rule.ra_kind == ValueKind::kUndefined)
        return DWUNW_RULE_CFA_ROOT | signal;
    if (rule.needs_interpreter)
        return kElsewhere | signal;
    const auto cfa = cfa_word(rule, arch);
    const auto ra = ra_word(rule, arch);
    const auto fp = fp_word(rule, arch);
    if (!cfa || !ra || !fp)
        return kElsewhere | signal;
    return *cfa | *ra | *fp | signal;
}

std::vector<uint64_t> table_cells(const unwind::Table &table) {
    const auto pages = table.pages();
    const auto units = table.units();
    const auto rules = table.rules();
    const auto overflow = table.overflow();
    const size_t units_at = DWUNW_BPF_TABLE_CELLS + cells_for(pages.size_bytes());
    const size_t rules_at = units_at + cells_for(units.size_bytes());
    const size_t overflow_at = rules_at + rules.size();
    const size_t end = overflow_at + overflow.size();
    if (end > std::numeric_limits<uint32_t>::max() / 8 || overflow.size() >> DWUNW_BPF_OVERFLOW_STEPS != 0)
        return {};
    std::vector<uint64_t> cells(end);
    const dwunw_pool_table header = {
        .page_count = static_cast<uint32_t>(pages.size()),
        .units_at = static_cast<uint32_t>(units_at),
        .rules_at = static_cast<uint32_t>(rules_at),
        .overflow_at = static_cast<uint32_t>(overflow_at),
        .overflow_count = static_cast<uint32_t>(overflow.size()),
        .reserved = 0,
    };
    std::memcpy(cells.data(), &header, sizeof(header));
    copy_to(cells, DWUNW_BPF_TABLE_CELLS, pages);
    copy_to(cells, units_at, units);
    for (size_t i = 0; i < rules.size(); ++i)
        cells[rules_at + i] = rule_word(rules[i], *table.arch());
    static_assert(sizeof(unwind::table_format::Overflow) == 8);
    copy_to(cells, overflow_at, overflow);
    return cells;
}

} // namespace dwunw::bpf
