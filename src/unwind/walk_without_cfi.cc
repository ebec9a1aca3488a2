// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A step where no rule covers the pc. The first of these that applies is taken:
//
//     no code at the pc (a wild or null call)     the call that must have led there, by the word at SP
//     the kernel's signal trampoline, by its code the registers that the signal saved
//     the instructions around a clone syscall     their effect, up to a return or to code with rules
//     the program's entry point, with FP = 0      the root (psABI §3.4.1)
//     any other code                              the step that the code itself proves (frame_by_code.h)
//
// If none of them is certain, the step ends with the reason why there is no rule.
//
// Proved by tests/unit/unwind_walk_without_cfi_test and unwind_frame_by_code_test.
#include "unwind/walk_state.h"

#include <algorithm>
#include <array>

namespace dwunw::unwind {

Step Walk::step_without_cfi(CodeAddr pc, dwunw_status missing, dwunw_frame_source &source) {
    Step step;
    step.status = missing;
    const bool no_code =
        location_.kind == CodeKind::kUnmapped || pc.pc().value - arch_.kernel_code_start < arch_.kernel_code_size;
    if (no_code && !pc.is_return_address()) {
        const Step by_call = step_by_call(pc, registers_);
        source = DWUNW_SOURCE_CALL;
        return by_call;
    }
    // There are rules, but they are unreadable or not trusted.
    const bool unreadable =
        location_.cfi != nullptr && (missing == DWUNW_ERR_IO || missing == DWUNW_ERR_MODULE_CHANGED);
    if (location_.kind == CodeKind::kUnmapped || missing == DWUNW_ERR_CFI_MALFORMED || unreadable)
        return step;
    const auto known = known_without_cfi(pc);
    bool bare = known.has_value();
    if (!known) {
        if (at_signal_trampoline(pc))
            return step_by_signal_trampoline(arch_, request_.memory, registers_);
        bare = pc.is_return_address();
        if (!pc.is_return_address()) {
            if (const auto by_code = step_around_clone(pc, bare)) {
                source = DWUNW_SOURCE_CODE;
                return *by_code;
            }
        }
    }
    // Also in a file without any CFI.
    const bool at_entry = location_.is_entry_point(pc.lookup());
    if (at_entry && registers_.known(arch_.fp) && registers_[arch_.fp] == 0) {
        // psABI §3.4.1: rbp is zero at process entry, to mark the deepest frame.
        step.outcome = Step::Outcome::kRoot;
        return step;
    }
    // Between a clone system call and the branch behind it, the stack is either the parent's or the child's.
    const bool is_either = !pc.is_return_address() && !bare && !registers_.known(arch_.result);
    if (request_.cfi_only || is_either)
        return step;
    if (!paths_)
        paths_.emplace(arch_, request_.space, warm_.rules != nullptr ? &warm_.rules->answers() : nullptr,
                       warm_.generation, warm_.now);
    const FrameByCode by_code =
        unwind::step_by_code(arch_, request_.space, *paths_, pc, inner_frame(), request_.memory, registers_);
    if (warm_.rules != nullptr && missing == DWUNW_ERR_NO_CFI && location_.kind == CodeKind::kModule && bare &&
        !at_entry && inside(pc.pc()) && by_code.frame_pointer)
        remember(pc, PackedRule::without_cfi(location_.place,
                                             *by_code.frame_pointer == FrameByCode::FramePointer::kIsSetUp));
    if (by_code.step.outcome == Step::Outcome::kFrame)
        source = by_code.by_frame_pointer ? DWUNW_SOURCE_FRAME_POINTER : DWUNW_SOURCE_CODE;
    else if (by_code.step.status == DWUNW_ERR_NO_CFI)
        return step; // the reason why there are no rules says more than the failure of the code
    return by_code.step;
}

Step Walk::step_by_call(CodeAddr pc, Registers &registers) {
    // Any register may hold the called address, so all are needed.
    if (!interpret_ && result_.written > 1)
        return Step{.outcome = Step::Outcome::kNeedsInterpreter};
    Step step = unwind::step_by_call(arch_, request_.space, pc.pc(), request_.memory,
                                     original_return(registers[arch_.sp]), registers);
    // The code at the pc, if there is some, gives a better reason.
    if (step.outcome == Step::Outcome::kStopped && step.status == DWUNW_ERR_NO_MAPPING &&
        location_.kind == CodeKind::kUnmapped)
        step.status = location_.status;
    return step;
}

std::optional<Step> Walk::step_around_clone(CodeAddr pc, bool &elsewhere) {
    constexpr uint64_t kBytesBefore = 8;
    constexpr uint64_t kBytesAfter = 16;
    const uint64_t before = std::min(kBytesBefore, pc.pc() - location_.start);
    const uint64_t after = std::min(kBytesAfter, location_.end - pc.pc());
    std::array<uint8_t, kBytesBefore + kBytesAfter> buffer;
    const auto code = std::span(buffer).first(before + after);
    if (!request_.space.read_code(pc.pc() - before, code))
        return std::nullopt;
    // Table rules do not carry the result register from frame to frame.
    if (!interpret_ && result_.written > 1)
        return Step{.outcome = Step::Outcome::kNeedsInterpreter};
    std::optional<uint64_t> result;
    if (registers_.known(arch_.result))
        result = registers_[arch_.result];
    const arch::CodeFlow flow = arch_.follow(code, before, result);
    elsewhere = flow.kind == arch::CodeFlow::Kind::kUnknown && flow.always;
    // The result register decides where the thread continues, and it lies in memory that cannot be read.
    if (const dwunw_status why = registers_.why_unknown(arch_.result);
        !result && !elsewhere && flow.kind == arch::CodeFlow::Kind::kUnknown && why != DWUNW_ERR_REGISTER_UNKNOWN) {
        Step step;
        step.status = why;
        return step;
    }
    if (flow.kind == arch::CodeFlow::Kind::kReturns)
        return step_by_return_instruction(arch_, request_.memory, registers_);
    const RunAddr target = pc.pc() + static_cast<uint64_t>(flow.offset);
    if (flow.kind == arch::CodeFlow::Kind::kUnknown || location_.cfi == nullptr || !inside(target))
        return std::nullopt;
    const auto found = location_.cfi->rule_at(location_.bias.link(target));
    if (found.status != DWUNW_OK)
        return std::nullopt;
    return step_by_row(found.rule, CodeAddr::instruction(target));
}

std::optional<InnerFrame> Walk::inner_frame() const {
    if (result_.written < 2)
        return std::nullopt;
    const dwunw_frame &frame = request_.frames[result_.written - 2];
    const RunAddr pc(frame.pc);
    const bool exact = (frame.flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0;
    return InnerFrame{exact ? CodeAddr::instruction(pc) : CodeAddr::return_address(pc), RunAddr(frame.sp),
                      RunAddr(frame.cfa)};
}

std::optional<PackedRule> Walk::known_without_cfi(CodeAddr pc) const {
    const auto rule = warm_.rules != nullptr ? warm_.rules->find(pc, warm_.generation) : std::nullopt;
    return rule && rule->is_without_cfi() ? rule : std::nullopt;
}

bool Walk::at_signal_trampoline(CodeAddr pc) {
    if (signal_trampoline_begins(pc.pc()))
        return true;
    return !pc.is_return_address() && pc.pc() - location_.start >= arch_.signal_trampoline_syscall &&
           signal_trampoline_begins(pc.pc() - arch_.signal_trampoline_syscall);
}

} // namespace dwunw::unwind
