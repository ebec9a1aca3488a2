// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The equations of rule.h, executed.
//
//     row:        CFA = SP + 16     RA = [CFA − 8]     FP = [CFA − 16]
//     registers:  SP = 0x7ffe00                        →  CFA = 0x7ffe10, RA = [0x7ffe08], FP = [0x7ffe00], SP =
//     0x7ffe10
//
// Trust. Nothing that is read from the target is trusted. A rule's result is only as good as the stack bytes. So every
// step must move the CFA up. Exceptions are a signal frame (sigaltstack), and a CFA that comes from FP or memory (code
// that switches stacks). The frame loop checks that each new pc is executable code, and counts frames.
//
// Slots below SP. The red zone is readable. At the `ret` of `leave; ret` the rows still say that rbp is saved at SP −
// 8. A slice that begins at SP lacks those bytes. By then the register has been restored, so it keeps its value.
//
// Proved by tests/unit/unwind_step_test and, on real stacks, tests/integration.
#include "unwind/step.h"

#include "dwarf/expression.h"
#include "unwind/rule_cache.h"

#include <algorithm>
#include <array>

namespace dwunw::unwind {
namespace {

Step stopped(dwunw_status status, uint64_t cfa = 0) {
    Step step;
    step.status = status;
    step.cfa = cfa;
    return step;
}

// Reads a register's slot into `outer`. If the slot cannot be read, the register is lost, but the walk continues.
void restore_from_slot(uint8_t reg, RunAddr slot, RunAddr sp, const arch::Arch &arch, const StackMemory &memory,
                       Registers &outer, Step &step) {
    if (auto value = memory.read_word(slot)) {
        outer.set(reg, *value);
    } else if (slot < sp && ((arch.preserved >> reg) & 1) != 0) {
        step.register_kept = true;
    } else {
        outer.forget(reg, value.error().status);
    }
}

// If the return address is in a register, the CFA may equal SP: the end of libgcc's _Unwind_Resume, which pops it; a
// function's entry, where the call puts it there.
bool moves_up(RunAddr sp, RunAddr cfa, bool return_address_in_register) {
    return return_address_in_register ? cfa >= sp : cfa > sp;
}

// Whether the return address is still in the register where the call put it. No rule of this frame says otherwise. A
// register that leads back to the pc belongs to a call that has returned.
bool is_in_own_register(const arch::Arch &arch, const Registers &registers, RunAddr pc) {
    return arch.ra != arch.pc && registers.known(arch.ra) &&
           arch::selected::return_address(registers[arch.ra]) != pc.value;
}

// DWUNW_OK: the rule's registers are known.
dwunw_status registers_of(const Rule &rule, const Registers &registers) {
    if (!registers.known(rule.cfa_reg))
        return registers.why_unknown(rule.cfa_reg);
    const bool has_ra_reg = rule.ra_kind == ValueKind::kRegister || rule.ra_kind == ValueKind::kAtRegister;
    return has_ra_reg && !registers.known(rule.ra_reg) ? registers.why_unknown(rule.ra_reg) : DWUNW_OK;
}

} // namespace

Step step_by_rule(const Rule &rule, const arch::Arch &arch, RunAddr pc, const StackMemory &memory,
                  Registers &registers) {
    Step step;
    if (rule.ra_kind == ValueKind::kUndefined) {
        step.outcome = Step::Outcome::kRoot;
        return step;
    }
    if (rule.cfa_kind == CfaKind::kLost)
        return stopped(DWUNW_ERR_STACK_SWITCHED);
    if (rule.needs_interpreter) {
        step.outcome = Step::Outcome::kNeedsInterpreter;
        return step;
    }
    if (const dwunw_status status = registers_of(rule, registers); status != DWUNW_OK)
        return stopped(status);

    const auto extend = [](int32_t value) { return static_cast<uint64_t>(int64_t{value}); };
    const RunAddr sp(registers[arch.sp]);
    RunAddr cfa(registers[rule.cfa_reg] + extend(rule.cfa_offset));
    if (rule.cfa_kind == CfaKind::kDeref) {
        auto base = memory.read_word(cfa);
        if (!base)
            return stopped(base.error().status);
        cfa = RunAddr(*base + extend(rule.cfa_addend));
    } else if (rule.cfa_kind == CfaKind::kPlt && (pc.value & 15) >= extend(rule.cfa_addend)) {
        cfa = cfa + 8;
    }
    step.cfa = cfa.value;
    if (rule.cfa_kind != CfaKind::kDeref && rule.cfa_reg == arch.sp &&
        !moves_up(sp, cfa, rule.ra_kind == ValueKind::kRegister || rule.ra_kind == ValueKind::kSame))
        return stopped(DWUNW_ERR_NO_PROGRESS, cfa.value);

    Registers outer = registers;
    switch (rule.ra_kind) {
    case ValueKind::kAtCfa:
        step.return_slot = (cfa + extend(rule.ra_offset)).value;
        break;
    case ValueKind::kAtRegister:
        step.return_slot = registers[rule.ra_reg] + extend(rule.ra_offset);
        break;
    case ValueKind::kCfaPlus:
        outer.set_return_address((cfa + extend(rule.ra_offset)).value);
        break;
    case ValueKind::kRegister:
        outer.set_return_address(registers[rule.ra_reg]);
        break;
    case ValueKind::kSame:
        if (is_in_own_register(arch, registers, pc)) {
            outer.set_return_address(registers[arch.ra]);
            break;
        }
        [[fallthrough]];
    default:
        // The return address is in the same place: this frame again.
        return stopped(DWUNW_ERR_NO_PROGRESS, cfa.value);
    }
    if (step.return_slot != 0) {
        auto value = memory.read_word(RunAddr(step.return_slot));
        if (!value)
            return stopped(value.error().status, cfa.value);
        outer.set_return_address(*value);
    }

    switch (rule.fp_kind) {
    case ValueKind::kSame:
        break;
    case ValueKind::kAtCfa:
        restore_from_slot(arch.fp, cfa + extend(rule.fp_offset), sp, arch, memory, outer, step);
        break;
    case ValueKind::kAtRegister:
        if (registers.known(rule.fp_reg))
            restore_from_slot(arch.fp, RunAddr(registers[rule.fp_reg] + extend(rule.fp_offset)), sp, arch, memory,
                              outer, step);
        else
            outer.forget(arch.fp, registers.why_unknown(rule.fp_reg));
        break;
    case ValueKind::kCfaPlus:
        outer.set(arch.fp, (cfa + extend(rule.fp_offset)).value);
        break;
    case ValueKind::kRegister:
        if (registers.known(rule.fp_reg))
            outer.set(arch.fp, registers[rule.fp_reg]);
        else
            outer.forget(arch.fp, registers.why_unknown(rule.fp_reg));
        break;
    default:
        outer.forget(arch.fp);
        break;
    }
    outer.set(arch.sp, cfa.value);
    step.signal_frame = rule.signal_frame;
    step.outcome = Step::Outcome::kFrame;
    registers = outer;
    return step;
}

namespace {

bool is_in_register(const dwarf::RegisterRule &rule) {
    using dwarf::RuleKind;
    return rule.kind == RuleKind::kRegister || rule.kind == RuleKind::kUnspecified || rule.kind == RuleKind::kSameValue;
}

// A frame, as seen by the expressions of its row.
class FrameContext final : public dwarf::ExpressionContext {
  public:
    FrameContext(const Registers &registers, const arch::Arch &arch, RunAddr pc, LoadBias bias,
                 const StackMemory &memory)
        : registers_(registers), arch_(arch), pc_(pc), bias_(bias), memory_(memory) {}

    Result<uint64_t> read_register(uint64_t reg) override {
        if (reg == arch_.pc)
            return pc_.value;
        if (!registers_.known(reg))
            return Error{registers_.why_unknown(reg), reg};
        return registers_[reg];
    }
    Result<uint64_t> read_memory(RunAddr address, size_t size) override { return memory_.read(address, size); }
    RunAddr relocate(LinkAddr address) override { return bias_.run(address); }

  private:
    const Registers &registers_;
    const arch::Arch &arch_;
    RunAddr pc_;
    LoadBias bias_;
    const StackMemory &memory_;
};

} // namespace

Step step_by_interpreter(const ModuleCfi &module, const arch::Arch &arch, CodeAddr pc, LoadBias bias,
                         const StackMemory &memory, Registers &registers) {
    const LinkAddr address = bias.link(pc.lookup());
    auto found = module.find_fde(address);
    if (!found)
        return stopped(found.error().status);
    if (found->fde.cie.return_address_register != arch.ra)
        return stopped(DWUNW_ERR_CFI_MALFORMED);
    auto state = dwarf::row_at(found->fde, address);
    if (!state)
        return stopped(state.error().status);

    Step step;
    using dwarf::RuleKind;
    if (state->registers[arch.ra].kind == RuleKind::kUndefined) {
        step.outcome = Step::Outcome::kRoot;
        return step;
    }
    FrameContext context(registers, arch, pc.pc(), bias, memory);
    const auto expression = [&](int64_t offset, uint32_t length) {
        return dwarf::expression_bytes(found->section, offset, length);
    };

    const dwarf::CfaRule &cfa_rule = state->cfa;
    Result<uint64_t> cfa = Error{DWUNW_ERR_CFI_MALFORMED, found->fde.offset};
    if (cfa_rule.kind == dwarf::CfaRule::Kind::kRegister) {
        cfa = context.read_register(cfa_rule.reg);
        if (cfa)
            *cfa += static_cast<uint64_t>(cfa_rule.value);
    } else if (cfa_rule.kind == dwarf::CfaRule::Kind::kExpression) {
        cfa = dwarf::evaluate(expression(cfa_rule.value, cfa_rule.expression_length), context, std::nullopt);
    }
    if (!cfa)
        return stopped(cfa.error().status);
    step.cfa = *cfa;
    const RunAddr sp(registers[arch.sp]);
    if (cfa_rule.kind == dwarf::CfaRule::Kind::kRegister && cfa_rule.reg == arch.sp &&
        !moves_up(sp, RunAddr(*cfa), is_in_register(state->registers[arch.ra])))
        return stopped(DWUNW_ERR_NO_PROGRESS, *cfa);

    Registers outer = registers;
    outer.set(arch.sp, *cfa);
    for (uint8_t reg = 0; reg < arch.register_count; ++reg) {
        const dwarf::RegisterRule &rule = state->registers[reg];
        const bool is_ra = reg == arch.ra;
        Result<uint64_t> value = Error{DWUNW_ERR_REGISTER_UNKNOWN, reg};
        std::optional<RunAddr> slot;
        switch (rule.kind) {
        case RuleKind::kUnspecified:
            if (is_ra && !is_in_own_register(arch, registers, pc.pc()))
                return stopped(DWUNW_ERR_NO_PROGRESS, *cfa);
            if (is_ra)
                continue;
            if (reg != arch.sp && ((arch.preserved >> reg) & 1) == 0)
                outer.leave_unmentioned(reg);
            continue;
        case RuleKind::kSameValue:
            if (is_ra && !is_in_own_register(arch, registers, pc.pc()))
                return stopped(DWUNW_ERR_NO_PROGRESS, *cfa);
            value = context.read_register(reg);
            break;
        case RuleKind::kUndefined:
            outer.forget(reg);
            continue;
        case RuleKind::kOffset:
            slot = RunAddr(*cfa + static_cast<uint64_t>(rule.value));
            break;
        case RuleKind::kValOffset:
            value = *cfa + static_cast<uint64_t>(rule.value);
            break;
        case RuleKind::kRegister:
            value = context.read_register(rule.reg);
            break;
        case RuleKind::kExpression:
            value = dwarf::evaluate(expression(rule.value, rule.expression_length), context, *cfa);
            if (value)
                slot = RunAddr(*value);
            break;
        case RuleKind::kValExpression:
            value = dwarf::evaluate(expression(rule.value, rule.expression_length), context, *cfa);
            break;
        }
        if (is_ra) {
            if (slot) {
                step.return_slot = slot->value;
                value = memory.read_word(*slot);
            }
            if (!value)
                return stopped(value.error().status, *cfa);
            outer.set(reg, *value);
        } else if (slot) {
            restore_from_slot(reg, *slot, sp, arch, memory, outer, step);
        } else if (value) {
            outer.set(reg, *value);
        } else {
            outer.forget(reg, value.error().status);
        }
    }
    if (!outer.known(arch.sp))
        return stopped(outer.why_unknown(arch.sp), *cfa);
    if (!outer.known(arch.ra))
        return stopped(outer.why_unknown(arch.ra), *cfa);
    outer.set_return_address(outer[arch.ra]);
    step.signal_frame = found->fde.cie.signal_frame;
    step.outcome = Step::Outcome::kFrame;
    registers = outer;
    return step;
}

Step step_by_signal_trampoline(const arch::Arch &arch, const StackMemory &memory, Registers &registers) {
    Step step;
    Registers outer;
    const RunAddr sp(registers[arch.sp]);
    for (const arch::SavedRegister &saved : arch.signal_frame) {
        auto value = memory.read_word(sp + saved.sp_offset);
        if (value)
            outer.set(saved.reg, *value);
        else if (saved.reg == arch.sp || saved.reg == arch.pc)
            return stopped(value.error().status);
        else
            outer.forget(saved.reg, value.error().status);
    }
    step.cfa = outer[arch.sp];
    step.signal_frame = true;
    step.outcome = Step::Outcome::kFrame;
    registers = outer;
    return step;
}

Step step_by_return_instruction(const arch::Arch &arch, const StackMemory &memory, Registers &registers) {
    const RunAddr sp(registers[arch.sp]);
    auto value = memory.read_word(sp);
    if (!value)
        return stopped(value.error().status);
    Step step;
    step.return_slot = sp.value;
    step.cfa = (sp + sizeof(uint64_t)).value;
    step.outcome = Step::Outcome::kFrame;
    for (uint8_t reg = 0; reg < arch.register_count; ++reg)
        if (((arch.preserved >> reg) & 1) == 0)
            registers.forget(reg);
    registers.set_return_address(*value);
    registers.set(arch.sp, step.cfa);
    return step;
}

} // namespace dwunw::unwind
