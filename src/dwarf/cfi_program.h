// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Executes a CFI program (DWARF 5 §6.4.2), which gives the rows of its FDE.
#pragma once

#include "arch/selected.h"
#include "base/address.h"
#include "base/result.h"
#include "dwarf/cfi_section.h"

#include <array>
#include <memory>

namespace dwunw::dwarf {

// The registers whose rules are kept. Rules of other registers are parsed and dropped.
inline constexpr size_t kTrackedRegisters = arch::selected::kRegisterCount;
inline constexpr size_t kMaxRememberedStates = 64;

enum class RuleKind : uint8_t {
    kUnspecified,   // no instruction names the register
    kUndefined,     // its value is lost
    kSameValue,     // it keeps its value
    kOffset,        // saved at CFA + value
    kValOffset,     // is CFA + value
    kRegister,      // saved in register `reg`
    kExpression,    // saved at the address the expression yields
    kValExpression, // is the expression's value
};

struct RegisterRule {
    RuleKind kind = RuleKind::kUnspecified;
    uint8_t reg = 0;                // kRegister
    uint32_t expression_length = 0; // kExpression, kValExpression
    int64_t value = 0;              // an offset; for an expression, where it begins in the section

    bool operator==(const RegisterRule &) const = default;
};
static_assert(sizeof(RegisterRule) == 16);

struct CfaRule {
    enum class Kind : uint8_t { kNone, kRegister, kExpression } kind = Kind::kNone;
    uint8_t reg = 0;                // kRegister: CFA = reg + value
    uint32_t expression_length = 0; // kExpression: CFA = the expression's value
    int64_t value = 0;

    bool operator==(const CfaRule &) const = default;
};

struct RowState {
    CfaRule cfa;
    // The offset of the last rule that was register + offset, also if an expression came after it.
    // DW_CFA_def_cfa_register uses it.
    std::optional<int64_t> cfa_offset{};
    std::array<RegisterRule, kTrackedRegisters> registers;
};

// The columns of a row in an unwind table: CFA, SP, FP and the return address.
struct TableState {
    CfaRule cfa;
    RegisterRule sp;
    RegisterRule fp;
    RegisterRule ra;
    std::optional<int64_t> cfa_offset{}; // as RowState's

    bool operator==(const TableState &) const = default;
};

// The DWARF numbers of these columns.
struct TableColumns {
    uint8_t sp = 0;
    uint8_t fp = 0;
    uint8_t ra = 0;
};

inline TableState table_state(const RowState &state, TableColumns columns) {
    return {state.cfa, state.registers[columns.sp], state.registers[columns.fp], state.registers[columns.ra],
            state.cfa_offset};
}

// The bytes of an expression. A rule holds their section offset, so that rules stay small and comparable.
inline std::span<const uint8_t> expression_bytes(std::span<const uint8_t> section, int64_t offset, uint32_t length) {
    const auto begin = static_cast<uint64_t>(offset);
    if (begin > section.size() || length > section.size() - begin)
        return {};
    return section.subspan(begin, length);
}

// Receives each row [start, end) in ascending order, start < end, none beyond the FDE's end. Returns false to stop.
class RowVisitor {
  public:
    virtual ~RowVisitor() = default;
    virtual bool row(LinkAddr start, LinkAddr end, const RowState &state) = 0;
};

// Runs the CIE's initial instructions and the FDE's. Rows that came before an error are valid; the caller decides
// whether to use them. DWUNW_ERR_CFI_MALFORMED (value: the opcode): an unknown opcode, a truncated operand, a CFA
// register out of range, restore_state without remember_state, or a location that moves backwards.
Status run_cfi_program(const Fde &fde, RowVisitor &visitor);

// Runs the programs of many FDEs for these columns only; compiling a table spends most of its time here. The visitor
// sees a row, by its first address, where one of the columns may have changed. The row ends at the next one, or at the
// FDE's end.
class TableProgram {
  public:
    class Visitor {
      public:
        virtual ~Visitor() = default;
        // Addresses ascend. Returns false to stop.
        virtual bool row(LinkAddr start, const TableState &state) = 0;
    };

    explicit TableProgram(TableColumns columns);
    ~TableProgram();

    // The state after a CIE's instructions, with which its FDEs begin. run_cfi_program's errors.
    Result<TableState> initial_state(const Cie &cie);
    // `initial`: the initial state of the FDE's CIE. run_cfi_program's errors.
    Status run(const Fde &fde, const TableState &initial, Visitor &visitor);

  private:
    struct Machine;
    std::unique_ptr<Machine> machine_;
};

// The row that covers an address of the FDE.
Result<RowState> row_at(const Fde &fde, LinkAddr address);

} // namespace dwunw::dwarf
