// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Evaluates any bytes as a DWARF expression, with registers and memory from the input. Proves that evaluation ends
// within its steps, and that an expression which recognise() takes for a simple shape has that shape's value.
//
// Input: flags (1: a value is pushed first), a seed for registers and memory (8 bytes), the expression.
#include "dwarf/expression.h"

#include "arch/arch.h"
#include "fuzz.h"

#include <elf.h>

namespace dwunw {
namespace {

using fuzz::require;

uint64_t mixed(uint64_t value) {
    value = (value ^ value >> 31) * 0x9e3779b97f4a7c15u;
    return value ^ value >> 29;
}

class Context final : public dwarf::ExpressionContext {
  public:
    explicit Context(uint64_t seed) : seed_(seed) {}

    Result<uint64_t> read_register(uint64_t reg) override {
        ++calls;
        if (reg > 16)
            return Error{DWUNW_ERR_REGISTER_UNKNOWN, reg};
        return mixed(seed_ + reg);
    }
    Result<uint64_t> read_memory(RunAddr address, size_t size) override {
        ++calls;
        require(size == 1 || size == 2 || size == 4 || size == 8, "memory is read in the sizes of integers");
        const uint64_t value = mixed(seed_ ^ address.value);
        if (value % 16 == 0)
            return Error{DWUNW_ERR_MEMORY_UNREADABLE, address.value};
        return size == 8 ? value : value & ((uint64_t{1} << 8 * size) - 1);
    }
    RunAddr relocate(LinkAddr address) override { return RunAddr(address.value + seed_); }

    size_t calls = 0;

  private:
    uint64_t seed_;
};

// The shape's equation, or that of its failure.
Result<uint64_t> value_of(const dwarf::SimpleExpression &simple, Context &context, uint64_t pc_register) {
    using Kind = dwarf::SimpleExpression::Kind;
    const auto reg = context.read_register(simple.reg);
    if (!reg)
        return reg;
    const uint64_t address = *reg + static_cast<uint64_t>(simple.offset);
    if (simple.kind == Kind::kRegisterOffset)
        return address;
    if (simple.kind == Kind::kDeref) {
        const auto word = context.read_memory(RunAddr(address), 8);
        return word ? Result<uint64_t>(*word + static_cast<uint64_t>(simple.addend)) : word;
    }
    const auto pc = context.read_register(pc_register);
    return address + (static_cast<int64_t>(*pc & 15) >= simple.addend ? 8 : 0);
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    Cursor cursor({data, size});
    const bool has_initial = (cursor.u8() & 1) != 0;
    const uint64_t seed = cursor.u64();
    const auto expression = fuzz::take(cursor, size);
    const auto initial = has_initial ? std::optional(mixed(seed)) : std::nullopt;

    Context context(seed);
    const auto value = dwarf::evaluate(expression, context, initial);
    require(context.calls <= dwarf::kMaxExpressionSteps, "steps are bounded");
    const uint64_t pc_register = arch::find_by_machine(EM_X86_64)->ra;
    if (const auto simple = dwarf::recognise(expression, pc_register)) {
        const auto expected = value_of(*simple, context, pc_register);
        require(value.ok() == expected.ok() &&
                    (value ? *value == *expected : value.error().status == expected.error().status),
                "a simple expression's value is its equation's");
    }
    return 0;
}
