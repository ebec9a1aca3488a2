// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The state machine of DWARF 5 §6.4.2. One state is changed in place; a row is shown to the visitor whenever the
// location advances past it, so nothing is copied a row. `initial_` is the state after the CIE's instructions, what
// DW_CFA_restore goes back to. Proved against an interpreter that shares nothing with it (tests/support/reference_cfi)
// and against readelf (tests/integration/table_readelf).
#include "dwarf/cfi_program.h"

#include "dwarf/constants.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

namespace dwunw::dwarf {
namespace {

class Machine {
  public:
    Machine(const Fde &fde, RowVisitor &visitor) : fde_(fde), visitor_(visitor), location_(fde.start) {}

    Status run() {
        in_cie_ = true;
        if (auto status = execute(fde_.cie.instructions, fde_.cie.instructions_offset); !status)
            return status;
        in_cie_ = false;
        initial_ = state_;
        if (auto status = execute(fde_.instructions, fde_.instructions_offset); !status)
            return status;
        if (!stopped_)
            emit_until(fde_.end);
        return {};
    }

  private:
    static Error malformed(uint8_t opcode) { return Error{DWUNW_ERR_CFI_MALFORMED, opcode}; }

    void emit_until(LinkAddr next) {
        const LinkAddr end = std::min(next, fde_.end);
        if (location_ < end && !visitor_.row(location_, end, state_))
            stopped_ = true;
        location_ = next;
        // Nothing that comes later can hold for an address of this FDE.
        if (location_ >= fde_.end)
            stopped_ = true;
    }

    bool advance_to(LinkAddr next) {
        if (in_cie_ || next < location_)
            return false;
        if (next != location_)
            emit_until(next);
        return true;
    }

    bool advance_by(uint64_t delta) {
        uint64_t bytes = 0;
        if (__builtin_mul_overflow(delta, fde_.cie.code_alignment, &bytes))
            return false;
        uint64_t next = 0;
        if (__builtin_add_overflow(location_.value, bytes, &next))
            return false;
        return advance_to(LinkAddr(next));
    }

    bool factored(int64_t operand, int64_t *offset) const {
        return !__builtin_mul_overflow(operand, fde_.cie.data_alignment, offset);
    }
    bool factored_unsigned(uint64_t operand, int64_t *offset) const {
        return operand <= uint64_t{std::numeric_limits<int64_t>::max()} &&
               factored(static_cast<int64_t>(operand), offset);
    }

    void set_rule(uint64_t reg, RegisterRule rule) {
        if (reg < kTrackedRegisters)
            state_.registers[reg] = rule;
    }

    bool restore(uint64_t reg) {
        if (in_cie_)
            return false;
        if (reg < kTrackedRegisters)
            state_.registers[reg] = initial_.registers[reg];
        return true;
    }

    // CFA = reg + offset; the CFA's own register has to be one we know.
    bool set_cfa(uint64_t reg, int64_t offset) {
        if (reg >= kTrackedRegisters)
            return false;
        state_.cfa = {CfaRule::Kind::kRegister, static_cast<uint8_t>(reg), 0, offset};
        state_.cfa_offset = offset;
        return true;
    }

    // DW_CFA_def_cfa_offset is only valid while the rule is register + offset. So is DW_CFA_def_cfa_register, but
    // libgcrypt's AVX2 functions (.cfi_escape of an expression, .cfi_def_cfa_register) have it behind one: the
    // assembler counts on, and gcc's unwinder, gdb and readelf go by the offset before the expression.
    bool cfa_is_register() const { return state_.cfa.kind == CfaRule::Kind::kRegister; }

    Status execute(std::span<const uint8_t> program, size_t program_offset);
    bool execute_one(uint8_t opcode, Cursor &cursor, size_t program_offset);

    const Fde &fde_;
    RowVisitor &visitor_;
    LinkAddr location_;
    RowState state_;
    RowState initial_;
    std::vector<RowState> remembered_;
    bool in_cie_ = false;
    bool stopped_ = false;
};

Status Machine::execute(std::span<const uint8_t> program, size_t program_offset) {
    Cursor cursor(program);
    while (!cursor.at_end() && !stopped_) {
        const uint8_t opcode = cursor.u8();
        if (!execute_one(opcode, cursor, program_offset) || !cursor.ok())
            return malformed(opcode);
    }
    return {};
}

bool Machine::execute_one(uint8_t opcode, Cursor &cursor, size_t program_offset) {
    const uint8_t low = opcode & 0x3f;
    int64_t offset = 0;
    // A rule's expression: its length, then its bytes, remembered as a section offset.
    auto expression = [&](uint32_t *length, int64_t *where) {
        const uint64_t size = cursor.uleb128();
        *where = static_cast<int64_t>(program_offset + cursor.offset());
        cursor.skip(size);
        *length = static_cast<uint32_t>(size);
        return cursor.ok() && size <= std::numeric_limits<uint32_t>::max();
    };

    switch (opcode & 0xc0) {
    case DW_CFA_advance_loc:
        return advance_by(low);
    case DW_CFA_offset:
        if (!factored_unsigned(cursor.uleb128(), &offset))
            return false;
        set_rule(low, {RuleKind::kOffset, 0, 0, offset});
        return true;
    case DW_CFA_restore:
        return restore(low);
    default:
        break;
    }

    switch (opcode) {
    case DW_CFA_nop:
        return true;
    case DW_CFA_set_loc: {
        const uint8_t encoding = fde_.cie.fde_encoding;
        // Offsets of pc-relative operands are the section's: read through a cursor that counts so.
        PointerBases bases = fde_.bases;
        bases.section = bases.section + program_offset;
        auto location = read_encoded_pointer(cursor, encoding, bases);
        return location.ok() && advance_to(LinkAddr(*location));
    }
    case DW_CFA_advance_loc1:
        return advance_by(cursor.u8());
    case DW_CFA_advance_loc2:
        return advance_by(cursor.u16());
    case DW_CFA_advance_loc4:
        return advance_by(cursor.u32());
    case DW_CFA_MIPS_advance_loc8:
        return advance_by(cursor.u64());
    case DW_CFA_offset_extended: {
        const uint64_t reg = cursor.uleb128();
        if (!factored_unsigned(cursor.uleb128(), &offset))
            return false;
        set_rule(reg, {RuleKind::kOffset, 0, 0, offset});
        return true;
    }
    case DW_CFA_offset_extended_sf: {
        const uint64_t reg = cursor.uleb128();
        if (!factored(cursor.sleb128(), &offset))
            return false;
        set_rule(reg, {RuleKind::kOffset, 0, 0, offset});
        return true;
    }
    case DW_CFA_GNU_negative_offset_extended: {
        // Obsolete: GCC 2 wrote the factored offset's negation.
        const uint64_t reg = cursor.uleb128();
        if (!factored_unsigned(cursor.uleb128(), &offset) || offset == std::numeric_limits<int64_t>::min())
            return false;
        set_rule(reg, {RuleKind::kOffset, 0, 0, -offset});
        return true;
    }
    case DW_CFA_val_offset: {
        const uint64_t reg = cursor.uleb128();
        if (!factored_unsigned(cursor.uleb128(), &offset))
            return false;
        set_rule(reg, {RuleKind::kValOffset, 0, 0, offset});
        return true;
    }
    case DW_CFA_val_offset_sf: {
        const uint64_t reg = cursor.uleb128();
        if (!factored(cursor.sleb128(), &offset))
            return false;
        set_rule(reg, {RuleKind::kValOffset, 0, 0, offset});
        return true;
    }
    case DW_CFA_restore_extended:
        return restore(cursor.uleb128());
    case DW_CFA_undefined:
        set_rule(cursor.uleb128(), {RuleKind::kUndefined});
        return true;
    case DW_CFA_same_value:
        set_rule(cursor.uleb128(), {RuleKind::kSameValue});
        return true;
    case DW_CFA_register: {
        const uint64_t reg = cursor.uleb128();
        const uint64_t source = cursor.uleb128();
        // A tracked register saved in one that is not tracked is lost.
        if (source < kTrackedRegisters)
            set_rule(reg, {RuleKind::kRegister, static_cast<uint8_t>(source)});
        else
            set_rule(reg, {RuleKind::kUndefined});
        return true;
    }
    case DW_CFA_remember_state:
        if (remembered_.size() >= kMaxRememberedStates)
            return false;
        remembered_.push_back(state_);
        return true;
    case DW_CFA_restore_state:
        if (remembered_.empty())
            return false;
        state_ = remembered_.back();
        remembered_.pop_back();
        return true;
    case DW_CFA_def_cfa: {
        const uint64_t reg = cursor.uleb128();
        const uint64_t value = cursor.uleb128();
        return value <= uint64_t{std::numeric_limits<int64_t>::max()} && set_cfa(reg, static_cast<int64_t>(value));
    }
    case DW_CFA_def_cfa_sf: {
        const uint64_t reg = cursor.uleb128();
        return factored(cursor.sleb128(), &offset) && set_cfa(reg, offset);
    }
    case DW_CFA_def_cfa_register:
        return state_.cfa_offset && set_cfa(cursor.uleb128(), *state_.cfa_offset);
    case DW_CFA_def_cfa_offset: {
        const uint64_t value = cursor.uleb128();
        return cfa_is_register() && value <= uint64_t{std::numeric_limits<int64_t>::max()} &&
               set_cfa(state_.cfa.reg, static_cast<int64_t>(value));
    }
    case DW_CFA_def_cfa_offset_sf:
        return cfa_is_register() && factored(cursor.sleb128(), &offset) && set_cfa(state_.cfa.reg, offset);
    case DW_CFA_def_cfa_expression: {
        CfaRule rule{CfaRule::Kind::kExpression};
        if (!expression(&rule.expression_length, &rule.value))
            return false;
        state_.cfa = rule;
        return true;
    }
    case DW_CFA_expression:
    case DW_CFA_val_expression: {
        const uint64_t reg = cursor.uleb128();
        RegisterRule rule{opcode == DW_CFA_expression ? RuleKind::kExpression : RuleKind::kValExpression};
        if (!expression(&rule.expression_length, &rule.value))
            return false;
        set_rule(reg, rule);
        return true;
    }
    case DW_CFA_GNU_args_size:
        // What the landing pads need; no row depends on it.
        cursor.uleb128();
        return true;
    default:
        // DW_CFA_GNU_window_save means something on SPARC and (as negate_ra_state) on AArch64 only.
        return false;
    }
}

class RowFinder final : public RowVisitor {
  public:
    explicit RowFinder(LinkAddr address) : address_(address) {}
    bool row(LinkAddr start, LinkAddr end, const RowState &state) override {
        if (address_ < start || address_ >= end)
            return true;
        found_ = state;
        return false;
    }
    std::optional<RowState> found_;

  private:
    LinkAddr address_;
};

} // namespace

Status run_cfi_program(const Fde &fde, RowVisitor &visitor) { return Machine(fde, visitor).run(); }

Result<RowState> row_at(const Fde &fde, LinkAddr address) {
    RowFinder finder(address);
    if (auto status = run_cfi_program(fde, finder); !status && !finder.found_)
        return status.error();
    if (!finder.found_)
        return Error{DWUNW_ERR_NO_CFI, address.value};
    return *finder.found_;
}

} // namespace dwunw::dwarf
