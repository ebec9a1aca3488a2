// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The loop of a walk:
//
//     frame 0: pc 0x1040   rule CFA = SP + 24, RA = [CFA − 8]   →  0x1100 is executable code  →  write frame 1, pc
//     0x1100 frame 1: pc 0x1100   rule CFA = FP + 16, RA = [CFA − 8]   →  … frame n:             RA undefined, or RA =
//     0              →  the root: DWUNW_OK
//
// A walk first uses table rules, which carry SP, FP and RA. If a rule needs another register, or an expression, the
// walk starts again from frame 0 with the interpreter and all registers, because the inner frames may have changed rbx,
// for example. Both walks share this loop and differ only in the step.
//
// Most pcs of most stacks were met before and have a simple rule. The warm walk serves these (warm_walk.cc). If no CFI
// covers a pc: walk_without_cfi.cc.
//
// The loop writes a frame only after it has found the pc in executable memory of the process. A return address that is
// not there stops the walk and is not a frame. The pc of frame 0, and a pc that a signal interrupted, may be no code.
// Then step.cc looks for the call that led there: its return address is on top of the stack.
//
// Proved by tests/unit/unwind_walk_test (every stop reason, slices cut at every byte, everything cold and warm) and
// tests/integration (real stacks against eu-stack, leaks against the program's own record).
#include "unwind/walk.h"

#include "unwind/walk_state.h"

#include <algorithm>
#include <array>

namespace dwunw::unwind {
namespace {

bool is_exact(const dwunw_frame &frame) {
    return (frame.flags & (DWUNW_FRAME_FLAG_EXACT_PC | DWUNW_FRAME_FLAG_SIGNAL)) == DWUNW_FRAME_FLAG_EXACT_PC;
}

} // namespace

WalkResult Walk::run() {
    result_.used_interpreter = interpret_;
    result_.status = walk_frames();
    return result_;
}

dwunw_status Walk::walk_frames() {
    CodeAddr pc = CodeAddr::instruction(RunAddr(registers_[arch_.pc]));
    if (!begin_warm(pc)) {
        locate(pc.lookup());
        write_frame(pc, DWUNW_SOURCE_REGISTERS, location_.module, location_.bias);
    }

    while (true) {
        dwunw_frame_source source = interpret_ ? DWUNW_SOURCE_INTERPRETER : DWUNW_SOURCE_CFI;
        Step step;
        if (!walk_warm(pc, step))
            step = step_from(pc, source);
        note(step);
        switch (step.outcome) {
        case Step::Outcome::kRoot:
            return DWUNW_OK;
        case Step::Outcome::kNeedsInterpreter:
            needs_interpreter_ = true;
            return DWUNW_ERR_NO_CFI;
        case Step::Outcome::kStopped:
            return step.status;
        case Step::Outcome::kFrame:
            break;
        }
        if (const auto end = arrive(step, source, pc))
            return *end;
    }
}

void Walk::note(const Step &step) {
    dwunw_frame &inner = request_.frames[result_.written - 1];
    inner.cfa = step.cfa;
    if (step.signal_frame)
        inner.flags |= DWUNW_FRAME_FLAG_SIGNAL;
    if (step.register_kept)
        inner.flags |= DWUNW_FRAME_FLAG_REGISTER_KEPT;
    if (step.cfa_unmentioned)
        inner.flags |= DWUNW_FRAME_FLAG_CFA_UNMENTIONED;
    if (step.no_code)
        inner.flags |= DWUNW_FRAME_FLAG_NO_CODE;
    result_.unmentioned_frames += step.cfa_unmentioned;
    result_.no_code_frames += step.no_code;
}

std::optional<dwunw_status> Walk::arrive(const Step &step, dwunw_frame_source source, CodeAddr &pc) {
    const RunAddr outer(registers_[arch_.pc]);
    // A return address of 0 is the root. The psABI does not say so, but every thread start without an undefined-RA row
    // pushes a zero. After a signal frame, 0 is an interrupted pc: a call through a null pointer.
    if (outer.value == 0 && !step.signal_frame)
        return DWUNW_OK;
    if (outer == pc.pc() && step.cfa == last_cfa_)
        return DWUNW_ERR_NO_PROGRESS;
    last_cfa_ = step.cfa;
    pc = step.signal_frame ? CodeAddr::instruction(outer) : CodeAddr::return_address(outer);
    if (step.signal_frame)
        source = DWUNW_SOURCE_SIGNAL;

    locate(pc.lookup());
    if (location_.kind == CodeKind::kUprobeTrampoline || trampoline_at(pc)) {
        const auto original = original_return(step.return_slot);
        if (!original)
            return DWUNW_ERR_UPROBE_TRAMPOLINE;
        registers_.set_return_address(*original);
        pc = CodeAddr::return_address(RunAddr(*original));
        source = DWUNW_SOURCE_TRAMPOLINE;
        if (*original == 0)
            return DWUNW_OK;
        locate(pc.lookup());
    }
    if (location_.kind == CodeKind::kUnmapped) {
        if (pc.is_return_address())
            return location_.status;
        // A pc that a signal interrupted is a frame if its call is found.
        Registers called = registers_;
        const Step by_call = step_by_call(pc, called);
        needs_interpreter_ = by_call.outcome == Step::Outcome::kNeedsInterpreter;
        if (by_call.outcome != Step::Outcome::kFrame)
            return by_call.status;
    }
    if (result_.written == request_.frames.size())
        return DWUNW_ERR_FRAME_LIMIT;
    write_frame(pc, source, location_.module, location_.bias);
    after_call_ = source == DWUNW_SOURCE_FRAME_POINTER;
    if (after_call_)
        remember_call(pc);
    result_.frame_pointer_frames += source == DWUNW_SOURCE_FRAME_POINTER;
    result_.trampoline_frames += source == DWUNW_SOURCE_TRAMPOLINE;
    return std::nullopt;
}

Step Walk::step_from(CodeAddr pc, dwunw_frame_source &source) {
    locate(pc.lookup());
    if (location_.cfi == nullptr)
        return step_without_cfi(pc, location_.status, source);
    auto found = location_.cfi->rule_at(location_.bias.link(pc.lookup()));
    // A rule that ends at the return address may belong to another function or path, because the return may follow no
    // call. A signal handler returns to the first byte of the trampoline, which in musl has no CFI; libgcc returns to a
    // landing pad. What counts is whether the two rules differ, not where a row ends: a table joins rows.
    const LinkAddr link = location_.bias.link(pc.pc());
    if (pc.is_return_address() && found.end == link) {
        const auto behind = location_.cfi->rule_at(link);
        if (found.status == DWUNW_OK && behind.status == DWUNW_ERR_NO_CFI && at_signal_trampoline(pc))
            return step_by_signal_trampoline(arch_, request_.memory, registers_);
        const bool differ = behind.status != found.status || (found.status == DWUNW_OK && behind.rule != found.rule);
        if (differ && inside(pc.pc()) && follows_call(arch_, request_.space, pc.pc()) == false) {
            pc = CodeAddr::instruction(pc.pc());
            request_.frames[result_.written - 1].flags |= DWUNW_FRAME_FLAG_EXACT_PC;
            found = behind;
            // The first frame of a fiber.
            if (code_begins(pc.pc(), arch_.context_end))
                return Step{.outcome = Step::Outcome::kRoot};
        }
    }
    if (found.status != DWUNW_OK)
        return step_without_cfi(pc, found.status, source);
    // Do not cache a return address at a mapping's end: it may be the uretprobe trampoline's, which the loop handles.
    if (inside(pc.pc()))
        remember(pc, PackedRule::pack(found.rule, arch_, location_.place));
    return step_by_row(found.rule, pc);
}

Step Walk::step_by_row(const Rule &rule, CodeAddr pc) {
    const bool from_other =
        rule.cfa_kind == CfaKind::kRegister && !rule.carries_cfa(arch_) && rule.ra_kind != ValueKind::kUndefined;
    if (from_other && interpret_ && registers_.unmentioned(rule.cfa_reg))
        return step_by_unmentioned(rule, pc);
    // Table rules do not carry such a register from frame to frame: only frame 0's value is known.
    if (from_other && !interpret_ && result_.written > 1) {
        const bool may_be_unmentioned = !rule.needs_interpreter && frame_0_called(pc) &&
                                        registers_.known(rule.cfa_reg) && !is_preserved(rule.cfa_reg) &&
                                        is_unwritten(pc, rule.cfa_reg);
        return may_be_unmentioned ? step_by_unmentioned(rule, pc) : Step{.outcome = Step::Outcome::kNeedsInterpreter};
    }
    return step_by(rule, pc);
}

Step Walk::step_by_unmentioned(const Rule &rule, CodeAddr pc) {
    Step stop;
    stop.status = DWUNW_ERR_REGISTER_UNKNOWN;
    const uint64_t value = registers_[rule.cfa_reg];
    const uint64_t sp = registers_[arch_.sp];
    const uint64_t cfa = value + static_cast<uint64_t>(int64_t{rule.cfa_offset});
    if (cfa <= sp || cfa - sp > kLargestUnmentionedFrame || rule.ra_kind != ValueKind::kAtCfa ||
        !is_unwritten(pc, rule.cfa_reg))
        return stop;
    const Registers before = registers_;
    registers_.set(rule.cfa_reg, value);
    Step step = step_by(rule, pc);
    step.cfa_unmentioned = step.outcome == Step::Outcome::kFrame;
    if (!step.cfa_unmentioned)
        return step;
    const RunAddr outer(registers_[arch_.pc]);
    if (request_.space.find(outer).kind == CodeKind::kUprobeTrampoline ||
        follows_call(arch_, request_.space, outer).value_or(false))
        return step;
    registers_ = before;
    return stop;
}

Step Walk::step_by(const Rule &rule, CodeAddr pc) {
    // The interpreter sees the rows as written, without the correction by the code.
    return interpret_ && rule.cfa_kind != CfaKind::kLost
               ? step_by_interpreter(*location_.cfi, arch_, pc, location_.bias, request_.memory, registers_)
               : step_by_rule(rule, arch_, pc.pc(), request_.memory, registers_);
}

bool Walk::frame_0_called(CodeAddr pc) const {
    return result_.written == 2 && pc.is_return_address() && request_.frames[1].source == DWUNW_SOURCE_CFI &&
           is_exact(request_.frames[0]);
}

bool Walk::is_unwritten(CodeAddr pc, uint8_t reg) {
    if (result_.written < 2 || !pc.is_return_address())
        return false;
    const dwunw_frame &inner = request_.frames[result_.written - 2];
    const uint32_t source = request_.frames[result_.written - 1].source;
    if (!is_exact(inner) || (source != DWUNW_SOURCE_CFI && source != DWUNW_SOURCE_INTERPRETER))
        return false;
    const RunAddr inner_pc(inner.pc);
    if (warm_.rules != nullptr && warm_.rules->is_unwritten(inner_pc, pc.pc(), reg, warm_.generation))
        return true;
    if (!unwind::is_unwritten(arch_, request_.space, location_, inner_pc, pc.pc(), reg))
        return false;
    if (warm_.rules != nullptr)
        warm_.rules->remember_unwritten(inner_pc, pc.pc(), reg, warm_.generation);
    return true;
}

void Walk::remember(CodeAddr pc, std::optional<PackedRule> packed) {
    if (warm_.rules == nullptr || !packed)
        return;
    if (after_call_)
        packed->set_after_call();
    warm_.rules->insert(pc, warm_.generation, *packed);
}

void Walk::remember_call(CodeAddr pc) {
    if (warm_.rules == nullptr)
        return;
    auto packed = warm_.rules->find(pc, warm_.generation);
    if (packed && !packed->is_after_call())
        remember(pc, packed);
}

bool Walk::trampoline_at(CodeAddr pc) const {
    return pc.is_return_address() && !inside(pc.pc()) &&
           request_.space.find(pc.pc()).kind == CodeKind::kUprobeTrampoline;
}

std::optional<uint64_t> Walk::original_return(uint64_t slot) const {
    for (const dwunw_pending_return &pending : request_.pending_returns)
        if (slot != 0 && pending.slot == slot)
            return pending.return_address;
    return std::nullopt;
}

bool Walk::code_begins(RunAddr address, std::span<const uint8_t> expected) {
    std::array<uint8_t, 16> buffer;
    const auto code = std::span(buffer).first(expected.size());
    return !expected.empty() && request_.space.read_code(address, code) && std::ranges::equal(code, expected);
}

void Walk::locate(RunAddr address) {
    if (inside(address))
        return;
    location_ = request_.space.find(address);
    if (!interpret_)
        warm_ = request_.space.warm();
}

void Walk::write_frame(CodeAddr pc, dwunw_frame_source source, const dwunw_module *module, LoadBias bias) {
    dwunw_frame &frame = request_.frames[result_.written++];
    frame = {};
    frame.pc = pc.pc().value;
    frame.sp = registers_[arch_.sp];
    frame.module = module;
    if (module != nullptr)
        frame.module_offset = bias.link(pc.pc()).value;
    frame.flags = pc.is_return_address() ? 0 : DWUNW_FRAME_FLAG_EXACT_PC;
    frame.source = source;
}

WalkResult walk(const WalkRequest &request) {
    Walk by_table(request, false);
    const WalkResult result = by_table.run();
    return by_table.needs_interpreter() ? Walk(request, true).run() : result;
}

} // namespace dwunw::unwind
