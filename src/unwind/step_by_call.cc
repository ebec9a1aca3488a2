// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the call before a return address proves, from its operand and the code of the function that was called:
//
//     0x1040  call *%rax     rax = 0          the pc is 0: this call led there; the return address is at SP
//     0x2040  call helper    helper's code does not write rax: rax is what it was at the call
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
// Proved by tests/unit/unwind_step_test and unwind_walk_no_code_test, and by
// tests/integration/uncertain_callers_test.py.
#include "unwind/step.h"

#include "unwind/rule_cache.h"

#include <algorithm>
#include <array>

namespace dwunw::unwind {
namespace {

Step stopped(dwunw_status status) {
    Step step;
    step.status = status;
    return step;
}

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
    registers.set_return_address(*word);
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
