// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The state machine of DWARF 5 §6.4.2:
//
//     CIE:  DW_CFA_def_cfa rsp, 8; DW_CFA_offset RA, −8       row [0x1129, 0x112a):  CFA = rsp + 8    RA = [CFA − 8]
//     FDE:  DW_CFA_advance_loc 1; DW_CFA_def_cfa_offset 16    row [0x112a, …):       CFA = rsp + 16   RA = [CFA − 8]
//
// One state is changed in place. The visitor sees a row whenever the location advances past it, so no row is copied.
// `initial_` is the state after the CIE's instructions, to which DW_CFA_restore goes back. The type of a state is a
// parameter: the interpreter has every register; the table, which runs hundreds of thousands of programs, has four
// columns. Proved against an interpreter that shares no code with this one (tests/support/reference_cfi), and against
// readelf (tests/integration/table_readelf).
#include "dwarf/cfi_program.h"

#include "dwarf/constants.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

namespace dwunw::dwarf {
namespace {

// The full state: every tracked register.
struct AllRegisters {
    RowState state;

    CfaRule &cfa() { return state.cfa; }
    std::optional<int64_t> &cfa_offset() { return state.cfa_offset; }
    RegisterRule *find(uint64_t reg) { return reg < kTrackedRegisters ? &state.registers[reg] : nullptr; }
};

// The registers of a table's rows. Rules of other registers are parsed and dropped.
struct TableRegisters {
    TableState state;
    TableColumns columns;

    CfaRule &cfa() { return state.cfa; }
    std::optional<int64_t> &cfa_offset() { return state.cfa_offset; }
    RegisterRule *find(uint64_t reg) {
        if (reg == columns.fp)
            return &state.fp;
        if (reg == columns.ra)
            return &state.ra;
        return reg == columns.sp ? &state.sp : nullptr;
    }
};

// The states that DW_CFA_remember_state saves. The first few need no allocation; no compiler's program saves more.
template <typename Registers> class RememberedStates {
  public:
    void clear() { count_ = 0; }
    // False if there are too many.
    bool push(const Registers &state) {
        if (count_ >= kMaxRememberedStates)
            return false;
        if (count_ < kAtHand) {
            at_hand_[count_] = state;
        } else {
            more_.resize(count_ - kAtHand); // drops what clear() has left
            more_.push_back(state);
        }
        ++count_;
        return true;
    }
    // False if there is none.
    bool pop(Registers &state) {
        if (count_ == 0)
            return false;
        --count_;
        state = count_ < kAtHand ? at_hand_[count_] : more_[count_ - kAtHand];
        return true;
    }

  private:
    static constexpr size_t kAtHand = 4; // real programs nest two deep
    std::array<Registers, kAtHand> at_hand_;
    std::vector<Registers> more_;
    size_t count_ = 0;
};

// The machine calls `bool advance(LinkAddr from, LinkAddr to, Registers &, bool changed)` of `Sink` whenever the
// location moves. The addresses are clamped to the FDE. advance() returns false to stop.
template <typename Registers> class MachineOf {
  public:
    MachineOf() = default;
    explicit MachineOf(const Registers &empty) : now_(empty), initial_(empty) {}

    Status run_cie(const Cie &cie) {
        in_cie_ = true;
        stopped_ = false;
        cie_ = &cie;
        remembered_.clear();
        const auto nowhere = [](LinkAddr, LinkAddr, Registers &, bool) { return false; };
        const Status status = execute(cie.instructions, cie.instructions_offset, nowhere);
        in_cie_ = false;
        return status;
    }

    // Begins with the state in `now()`; DW_CFA_restore goes back to that state.
    template <typename Sink> Status run_fde(const Fde &fde, Sink &&sink) {
        fde_ = &fde;
        cie_ = &fde.cie;
        location_ = fde.start;
        initial_ = now_;
        changed_ = true;
        stopped_ = false;
        remembered_.clear();
        if (auto status = execute(fde.instructions, fde.instructions_offset, sink); !status)
            return status;
        if (!stopped_)
            move_to(fde.end, sink);
        return {};
    }

    Registers &now() { return now_; }

  private:
    static Error malformed(uint8_t opcode) { return Error{DWUNW_ERR_CFI_MALFORMED, opcode}; }

    template <typename Sink> void move_to(LinkAddr next, Sink &sink) {
        const LinkAddr end = std::min(next, fde_->end);
        if (location_ < end && !sink(location_, end, now_, changed_))
            stopped_ = true;
        changed_ = false;
        location_ = next;
        // No later row can cover an address of this FDE.
        if (location_ >= fde_->end)
            stopped_ = true;
    }

    template <typename Sink> bool advance_to(LinkAddr next, Sink &sink) {
        if (in_cie_ || next < location_)
            return false;
        if (next != location_)
            move_to(next, sink);
        return true;
    }

    template <typename Sink> bool advance_by(uint64_t delta, Sink &sink) {
        uint64_t bytes = 0;
        if (__builtin_mul_overflow(delta, cie_->code_alignment, &bytes))
            return false;
        uint64_t next = 0;
        if (__builtin_add_overflow(location_.value, bytes, &next))
            return false;
        return advance_to(LinkAddr(next), sink);
    }

    bool factored(int64_t operand, int64_t *offset) const {
        return !__builtin_mul_overflow(operand, cie_->data_alignment, offset);
    }
    bool factored_unsigned(uint64_t operand, int64_t *offset) const {
        return operand <= uint64_t{std::numeric_limits<int64_t>::max()} &&
               factored(static_cast<int64_t>(operand), offset);
    }

    void set_rule(uint64_t reg, RegisterRule rule) {
        if (RegisterRule *column = now_.find(reg)) {
            *column = rule;
            changed_ = true;
        }
    }

    bool restore(uint64_t reg) {
        if (in_cie_)
            return false;
        if (RegisterRule *column = now_.find(reg)) {
            *column = *initial_.find(reg);
            changed_ = true;
        }
        return true;
    }

    // CFA = reg + offset. The register must be a tracked one.
    bool set_cfa(uint64_t reg, int64_t offset) {
        if (reg >= kTrackedRegisters)
            return false;
        now_.cfa() = {CfaRule::Kind::kRegister, static_cast<uint8_t>(reg), 0, offset};
        now_.cfa_offset() = offset;
        changed_ = true;
        return true;
    }

    // DW_CFA_def_cfa_offset is valid only while the rule is register + offset. The standard says the same of
    // DW_CFA_def_cfa_register, but libgcrypt's AVX2 functions use it after an expression (.cfi_escape,
    // .cfi_def_cfa_register). The assembler keeps counting the offset there, and readelf uses the offset from before
    // the expression.
    bool cfa_is_register() { return now_.cfa().kind == CfaRule::Kind::kRegister; }

    template <typename Sink> Status execute(std::span<const uint8_t> program, size_t program_offset, Sink &&sink) {
        Cursor cursor(program);
        while (!cursor.at_end() && !stopped_) {
            const uint8_t opcode = cursor.u8();
            if (!execute_one(opcode, cursor, program_offset, sink) || !cursor.ok())
                return malformed(opcode);
        }
        return {};
    }
    template <typename Sink> bool execute_one(uint8_t opcode, Cursor &cursor, size_t program_offset, Sink &sink);

    const Fde *fde_ = nullptr;
    const Cie *cie_ = nullptr;
    LinkAddr location_;
    Registers now_;
    Registers initial_;
    RememberedStates<Registers> remembered_;
    bool in_cie_ = false;
    bool stopped_ = false;
    bool changed_ = false; // a rule was written after the last row
};

template <typename Registers>
template <typename Sink>
bool MachineOf<Registers>::execute_one(uint8_t opcode, Cursor &cursor, size_t program_offset, Sink &sink) {
    const uint8_t low = opcode & 0x3f;
    int64_t offset = 0;
    // A rule's expression: its length, then its bytes. The state keeps the section offset of the bytes.
    auto expression = [&](uint32_t *length, int64_t *where) {
        const uint64_t size = cursor.uleb128();
        *where = static_cast<int64_t>(program_offset + cursor.offset());
        cursor.skip(size);
        *length = static_cast<uint32_t>(size);
        return cursor.ok() && size <= std::numeric_limits<uint32_t>::max();
    };

    switch (opcode & 0xc0) {
    case DW_CFA_advance_loc:
        return advance_by(low, sink);
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
        if (in_cie_)
            return false;
        const uint8_t encoding = fde_->cie.fde_encoding;
        // A pc-relative operand needs its offset in the section, so read it through a cursor that counts from there.
        PointerBases bases = fde_->bases;
        bases.section = bases.section + program_offset;
        auto location = read_encoded_pointer(cursor, encoding, bases);
        return location.ok() && advance_to(LinkAddr(*location), sink);
    }
    case DW_CFA_advance_loc1:
        return advance_by(cursor.u8(), sink);
    case DW_CFA_advance_loc2:
        return advance_by(cursor.u16(), sink);
    case DW_CFA_advance_loc4:
        return advance_by(cursor.u32(), sink);
    case DW_CFA_MIPS_advance_loc8:
        return advance_by(cursor.u64(), sink);
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
        // Obsolete: GCC 2 wrote the negated factored offset.
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
        // A tracked register that is saved in an untracked one is lost.
        if (source < kTrackedRegisters)
            set_rule(reg, {RuleKind::kRegister, static_cast<uint8_t>(source)});
        else
            set_rule(reg, {RuleKind::kUndefined});
        return true;
    }
    case DW_CFA_remember_state:
        return remembered_.push(now_);
    case DW_CFA_restore_state:
        if (!remembered_.pop(now_))
            return false;
        changed_ = true;
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
        return now_.cfa_offset() && set_cfa(cursor.uleb128(), *now_.cfa_offset());
    case DW_CFA_def_cfa_offset: {
        const uint64_t value = cursor.uleb128();
        return cfa_is_register() && value <= uint64_t{std::numeric_limits<int64_t>::max()} &&
               set_cfa(now_.cfa().reg, static_cast<int64_t>(value));
    }
    case DW_CFA_def_cfa_offset_sf:
        return cfa_is_register() && factored(cursor.sleb128(), &offset) && set_cfa(now_.cfa().reg, offset);
    case DW_CFA_def_cfa_expression: {
        CfaRule rule{CfaRule::Kind::kExpression};
        if (!expression(&rule.expression_length, &rule.value))
            return false;
        now_.cfa() = rule;
        changed_ = true;
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
        // Only landing pads need this operand; no row depends on it.
        cursor.uleb128();
        return true;
    case DW_CFA_AARCH64_negate_ra_state:
        // A signature is removed from every return address, so no row depends on it. Elsewhere it is an unknown opcode:
        // SPARC's DW_CFA_GNU_window_save.
        return arch::selected::kSignsReturnAddresses;
    default:
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

Status run_cfi_program(const Fde &fde, RowVisitor &visitor) {
    MachineOf<AllRegisters> machine;
    if (auto status = machine.run_cie(fde.cie); !status)
        return status;
    return machine.run_fde(fde, [&](LinkAddr start, LinkAddr end, const AllRegisters &registers, bool) {
        return visitor.row(start, end, registers.state);
    });
}

struct TableProgram::Machine : MachineOf<TableRegisters> {
    using MachineOf::MachineOf;
};

TableProgram::TableProgram(TableColumns columns)
    : machine_(std::make_unique<Machine>(TableRegisters{.state = {}, .columns = columns})) {}
TableProgram::~TableProgram() = default;

Result<TableState> TableProgram::initial_state(const Cie &cie) {
    machine_->now().state = {};
    if (auto status = machine_->run_cie(cie); !status)
        return status.error();
    return machine_->now().state;
}

Status TableProgram::run(const Fde &fde, const TableState &initial, Visitor &visitor) {
    machine_->now().state = initial;
    return machine_->run_fde(fde, [&](LinkAddr start, LinkAddr, const TableRegisters &registers, bool changed) {
        return !changed || visitor.row(start, registers.state);
    });
}

Result<RowState> row_at(const Fde &fde, LinkAddr address) {
    RowFinder finder(address);
    if (auto status = run_cfi_program(fde, finder); !status && !finder.found_)
        return status.error();
    if (!finder.found_)
        return Error{DWUNW_ERR_NO_CFI, address.value};
    return *finder.found_;
}

} // namespace dwunw::dwarf
