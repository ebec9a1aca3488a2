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
// Registers that no rule mentions. A call preserves the callee-saved ones (psABI §3.2.1); the others are lost. libgcc
// and libunwind keep all of them; then a CFA from r10 in an outer frame would silently use a wrong value. But OpenSSL's
// assembly relies on one: a function keeps its caller's SP in rax or r11, has CFA = rax+8, and calls a helper that
// neither writes nor mentions rax. Such a register is used only for a CFA, and only if all of these hold:
//   - the helper is the thread's current or interrupted function, so that the register's value is known there;
//   - a direct call of the helper is before the return address, and the rule is the same behind the call;
//   - no instruction of the helper writes the register, calls anything, or jumps out of the helper: is_unwritten();
//   - the CFA is above SP, within the stack, and leads to a return address that follows a call: walk.cc. The first
//     three prove the value, if the caller's CFI is true: a helper that kept the register elsewhere would have to write
//     it to restore it. The last one is an additional check.
//
// A pc that is not code (a call through a null pointer). No instruction was executed there, so the return address is
// still at SP; or the thread came there by a `ret` from an overwritten stack, or by a jump. The operand of the call
// before the return address is the called address, and all registers have their values of the call. So a direct call to
// another address, or a register or word with another address, is not the call of this pc. If the word cannot be read
// (a variable, when there is only a slice), it counts as having held the pc, but only for a pc in the first page, where
// the map always shows code if there is some. A `ret` leaves the pc just below SP, and SP a multiple of 16; a call
// leaves SP 8 below one.
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

// If the return address was popped into a register, the CFA equals SP: the end of libgcc's _Unwind_Resume.
bool moves_up(RunAddr sp, RunAddr cfa, bool return_address_is_popped) {
    return return_address_is_popped ? cfa >= sp : cfa > sp;
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
        !moves_up(sp, cfa, rule.ra_kind == ValueKind::kRegister))
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
        outer.set(arch.ra, (cfa + extend(rule.ra_offset)).value);
        break;
    case ValueKind::kRegister:
        outer.set(arch.ra, registers[rule.ra_reg]);
        break;
    default:
        // The return address is in the same place: this frame again.
        return stopped(DWUNW_ERR_NO_PROGRESS, cfa.value);
    }
    if (step.return_slot != 0) {
        auto value = memory.read_word(RunAddr(step.return_slot));
        if (!value)
            return stopped(value.error().status, cfa.value);
        outer.set(arch.ra, *value);
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

// A frame, as seen by the expressions of its row.
class FrameContext final : public dwarf::ExpressionContext {
  public:
    FrameContext(const Registers &registers, const arch::Arch &arch, RunAddr pc, LoadBias bias,
                 const StackMemory &memory)
        : registers_(registers), arch_(arch), pc_(pc), bias_(bias), memory_(memory) {}

    Result<uint64_t> read_register(uint64_t reg) override {
        if (reg == arch_.ra)
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
        !moves_up(sp, RunAddr(*cfa), state->registers[arch.ra].kind == RuleKind::kRegister))
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
            if (is_ra)
                return stopped(DWUNW_ERR_NO_PROGRESS, *cfa);
            if (reg != arch.sp && ((arch.preserved >> reg) & 1) == 0)
                outer.leave_unmentioned(reg);
            continue;
        case RuleKind::kSameValue:
            if (is_ra)
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
        else if (saved.reg == arch.sp || saved.reg == arch.ra)
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
    registers.set(arch.ra, *value);
    registers.set(arch.sp, step.cfa);
    return step;
}

namespace {

enum class Called : uint8_t { kNo, kYes, kUnknown, kUnread };

// Whether a transfer of control led to `pc`, by its target. `end`: of the instruction; `sp`: SP at that time.
class Going {
  public:
    Going(const StackMemory &memory, const arch::Arch &arch, const Registers &registers, uint64_t sp, RunAddr pc)
        : memory_(memory), arch_(arch), registers_(registers), sp_(sp), pc_(pc) {}

    Called went(const arch::CodeTarget &target, RunAddr end) {
        using Kind = arch::CodeTarget::Kind;
        switch (target.kind) {
        case Kind::kAddress:
            return end + static_cast<uint64_t>(target.displacement) == pc_ ? Called::kYes : Called::kNo;
        case Kind::kRegister: {
            const auto value = read(target.base);
            return !value ? Called::kUnknown : *value == pc_.value ? Called::kYes : Called::kNo;
        }
        case Kind::kMemory:
            return read_target(target, end);
        case Kind::kElsewhere:
            break;
        }
        return Called::kUnknown;
    }
    dwunw_status why_unread() const { return why_unread_; }

  private:
    std::optional<uint64_t> read(uint8_t reg) const {
        if (reg == arch_.sp)
            return sp_;
        return registers_.known(reg) ? std::optional(registers_[reg]) : std::nullopt;
    }
    Called read_target(const arch::CodeTarget &target, RunAddr end) {
        uint64_t address = static_cast<uint64_t>(target.displacement) + (target.from_end ? end.value : 0);
        for (const auto &[reg, scale] : {std::pair(target.base, uint8_t{1}), std::pair(target.index, target.scale)}) {
            if (reg == arch::CodeTarget::kNone)
                continue;
            const auto value = read(reg);
            if (!value)
                return Called::kUnknown;
            address += *value * scale;
        }
        const auto word = memory_.read_word(RunAddr(address));
        if (word)
            return *word == pc_.value ? Called::kYes : Called::kNo;
        // More of the stack would decide it.
        constexpr uint64_t kStack = uint64_t{1} << 20;
        if (address - sp_ >= kStack)
            return Called::kUnknown;
        why_unread_ = word.error().status;
        return Called::kUnread;
    }

    const StackMemory &memory_;
    const arch::Arch &arch_;
    const Registers &registers_;
    uint64_t sp_;
    RunAddr pc_;
    dwunw_status why_unread_ = DWUNW_OK;
};

// The bytes before `end` from which a call can be decoded.
std::span<const uint8_t> read_call(const arch::Arch &arch, AddressSpace &space, RunAddr end,
                                   std::span<uint8_t, 16> buffer) {
    const CodeLocation location = space.find(end - 1);
    if (location.kind == CodeKind::kUnmapped || location.kind == CodeKind::kUprobeTrampoline)
        return {};
    const size_t length = std::min<uint64_t>(arch.max_call_length + arch.call_context, end - location.start);
    const auto code = std::span<uint8_t>(buffer).first(length);
    return space.read_code(end - length, code) ? code : std::span<uint8_t>();
}

// DWUNW_OK: a call before `return_address` led to `pc`.
dwunw_status call_led_to(const arch::Arch &arch, AddressSpace &space, RunAddr pc, RunAddr return_address,
                         const StackMemory &memory, const Registers &registers) {
    std::array<uint8_t, 16> buffer;
    const auto code = read_call(arch, space, return_address, buffer);
    std::array<arch::CodeTarget, arch::kMaxCallTargets> targets;
    const size_t count = arch.call_targets(code, targets);
    Going going(memory, arch, registers, registers[arch.sp] + sizeof(uint64_t), pc);
    bool unknown = false;
    bool unread = false;
    for (const arch::CodeTarget &target : std::span(targets).first(count)) {
        Called called = going.went(target, return_address);
        if (called == Called::kNo && target.kind == arch::CodeTarget::Kind::kAddress) {
            const RunAddr stub = return_address + static_cast<uint64_t>(target.displacement);
            std::array<uint8_t, 16> stub_code;
            arch::CodeTarget jump;
            size_t length = 0;
            if (space.is_code(stub) && space.read_code(stub, stub_code) && arch.is_jump_stub(stub_code, jump, length))
                called = going.went(jump, stub + length);
        }
        if (called == Called::kYes)
            return DWUNW_OK;
        unknown |= called == Called::kUnknown;
        unread |= called == Called::kUnread;
    }
    // No file and no code is ever mapped in this page.
    constexpr uint64_t kNullPage = 4096;
    if (unread)
        return going.why_unread();
    return unknown && pc.value < kNullPage ? DWUNW_OK : DWUNW_ERR_NO_MAPPING;
}

} // namespace

Step step_by_call(const arch::Arch &arch, AddressSpace &space, RunAddr pc, const StackMemory &memory,
                  std::optional<uint64_t> original, Registers &registers) {
    const RunAddr sp(registers[arch.sp]);
    const auto word = memory.read_word(sp);
    if (!word)
        return stopped(word.error().status);
    RunAddr return_address(*word);
    if (space.find(return_address).kind == CodeKind::kUprobeTrampoline) {
        if (!original)
            return stopped(DWUNW_ERR_UPROBE_TRAMPOLINE);
        return_address = RunAddr(*original);
    }
    if (const dwunw_status status = call_led_to(arch, space, pc, return_address, memory, registers); status != DWUNW_OK)
        return stopped(status);
    const auto popped = memory.read_word(sp - sizeof(uint64_t));
    const bool may_be_returned_to = !popped || *popped == pc.value;
    if (may_be_returned_to && sp.value % arch.stack_alignment != arch.entry_misalignment)
        return stopped(DWUNW_ERR_NO_MAPPING);

    Step step;
    step.return_slot = sp.value;
    step.cfa = (sp + sizeof(uint64_t)).value;
    step.no_code = true;
    step.outcome = Step::Outcome::kFrame;
    registers.set(arch.ra, *word);
    registers.set(arch.sp, step.cfa);
    return step;
}

bool is_unwritten(const arch::Arch &arch, AddressSpace &space, const CodeLocation &location, RunAddr inner,
                  RunAddr outer, uint8_t reg) {
    constexpr size_t kLargestFunction = 8192;
    const auto inside = [&](RunAddr address) { return address >= location.start && address < location.end; };
    if (location.cfi == nullptr || !inside(inner) || !inside(outer))
        return false;
    const LinkAddr link = location.bias.link(inner);
    const auto found = location.cfi->find_fde(link);
    if (!found || found->fde.cie.signal_frame)
        return false;
    const LinkAddr start = found->fde.start;
    const uint64_t size = found->fde.end - start;
    if (size == 0 || size > kLargestFunction || !inside(location.bias.run(start)) ||
        size > location.end - location.bias.run(start))
        return false;
    const auto state = dwarf::row_at(found->fde, link);
    if (!state || state->registers[reg].kind != dwarf::RuleKind::kUnspecified)
        return false;

    std::array<uint8_t, 16> call_buffer;
    std::array<arch::CodeTarget, arch::kMaxCallTargets> targets;
    const size_t count = arch.call_targets(read_call(arch, space, outer, call_buffer), targets);
    std::optional<uint64_t> entry;
    for (const arch::CodeTarget &target : std::span(targets).first(count)) {
        const uint64_t offset = location.bias.link(outer) + static_cast<uint64_t>(target.displacement) - start;
        if (target.kind == arch::CodeTarget::Kind::kAddress && offset < size)
            entry = offset;
    }
    // The rule at the call must also hold behind it: then the call keeps the register.
    const auto at_call = location.cfi->rule_at(location.bias.link(outer - 1));
    const auto behind = location.cfi->rule_at(location.bias.link(outer));
    if (!entry || at_call.status != DWUNW_OK || behind.status != DWUNW_OK || at_call.rule != behind.rule)
        return false;

    std::array<uint8_t, kLargestFunction> code;
    const auto function = std::span(code).first(size);
    const std::array<size_t, 2> entered_at = {static_cast<size_t>(*entry), static_cast<size_t>(link - start)};
    return space.read_code(location.bias.run(start), function) && arch.leaves_alone(function, reg, entered_at);
}

std::optional<bool> follows_call(const arch::Arch &arch, AddressSpace &space, RunAddr address) {
    const CodeLocation location = space.find(address - 1);
    if (location.kind == CodeKind::kUnmapped)
        return std::nullopt;
    // A file's code does not change while its mapping exists; find() has checked the mapping.
    const bool is_file = location.kind == CodeKind::kModule;
    const AddressSpace::Warm warm =
        is_file || location.kind == CodeKind::kAnonymous ? space.warm() : AddressSpace::Warm{};
    const bool for_a_while = !is_file && warm.rules != nullptr && warm.now != 0;
    const CodeAnswers::Question place{nullptr, warm.generation, LinkAddr(address.value), {}, true};
    if (is_file && warm.rules != nullptr)
        if (const auto known = warm.rules->follows_call(address, warm.generation))
            return known;
    if (for_a_while)
        if (const auto known = warm.rules->answers().follows_call(place, warm.now))
            return known;
    std::array<uint8_t, 16> buffer;
    const size_t length = std::min<uint64_t>(arch.max_call_length, address - location.start);
    const auto code = std::span(buffer).first(length);
    if (!space.read_code(address - length, code))
        return std::nullopt;
    const bool follows = arch.ends_in_call(code);
    if (is_file && warm.rules != nullptr)
        warm.rules->remember_call(address, warm.generation, follows);
    if (for_a_while)
        warm.rules->answers().keep_follows_call(place, warm.now, follows);
    return follows;
}

} // namespace dwunw::unwind
