// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Evaluates the DWARF expressions that CFI may use (DWARF 5 §2.5 and §6.4.2: no DW_OP_call…, no object operators, no
// DW_OP_call_frame_cfa).
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <functional>
#include <optional>
#include <span>

namespace dwunw::dwarf {

inline constexpr size_t kMaxExpressionStack = 64;
// DW_OP_bra and DW_OP_skip can loop. Real CFI expressions have a dozen operations.
inline constexpr size_t kMaxExpressionSteps = 1024;

class ExpressionContext {
  public:
    virtual ~ExpressionContext() = default;
    // The register's value in the frame being unwound.
    virtual Result<uint64_t> read_register(uint64_t reg) = 0;
    // `size` bytes (1, 2, 4 or 8), zero-extended.
    virtual Result<uint64_t> read_memory(RunAddr address, size_t size) = 0;
    // The run address of the link address that DW_OP_addr holds.
    virtual RunAddr relocate(LinkAddr address) = 0;
};

// Returns the top of the stack. Pushes `initial` first: the CFA, for a register's expression (§6.4.2.3).
// DWUNW_ERR_UNSUPPORTED_EXPRESSION (value: the opcode): an operator that CFI cannot use. DWUNW_ERR_CFI_MALFORMED: stack
// under- or overflow, a branch out of bounds, a truncated operand, division by zero, or too many steps. Otherwise the
// context's error.
Result<uint64_t> evaluate(std::span<const uint8_t> expression, ExpressionContext &context,
                          std::optional<uint64_t> initial);

// The expressions that compilers and linkers emit, which the compiled table can hold without an evaluator.
struct SimpleExpression {
    enum class Kind : uint8_t {
        kRegisterOffset, // reg + offset                                  an address: DRAP saves, signal frames
        kDeref,          // *(reg + offset) + addend                      a CFA: DRAP, libcrypto, signal frames
        kPlt,            // reg + offset + ((pc & 15) ≥ addend) × 8       a CFA: lazy PLT entries (rsp)
    } kind;
    uint8_t reg;
    int64_t offset;
    int64_t addend;
};
// `pc_register` is the DWARF number of the program counter. std::nullopt for every other expression.
std::optional<SimpleExpression> recognise(std::span<const uint8_t> expression, uint64_t pc_register);

} // namespace dwunw::dwarf
