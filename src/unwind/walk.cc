// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A walk is first tried with table rules, which carry SP, FP and RA. A rule that needs another register, or an
// expression, starts it again from frame 0 with the interpreter and all registers: what an inner frame did to rbx
// cannot be made up for later. Both walks share this loop, so they differ in nothing but the step.
//
// Most pcs of most stacks were met before, and have a simple rule. For those there is the warm walk: the rule out of
// RuleCache, the words out of the slice, no look at the process at all. Whatever it cannot do in that way, or may not
// trust any more, it leaves to the loop around it, with nothing done. So it can only be faster, never different.
//
// A frame is written only once its pc is known to lie in executable memory of the process; a return address that does
// not is where the walk stops, not a frame. The pc of frame 0, and one that a signal interrupted, may be no code: then
// the call that led there is looked for on top of the stack (step.cc). Where no CFI covers a pc: the kernel's signal
// trampoline by its code, then the few instructions around a clone system call by what they do, then the program's
// entry point by its address, then what is certain by the
// code itself (frame_by_code.h).
//
// Proved by tests/unit/unwind_walk_test (every stop reason, slices cut at every byte, everything cold and warm) and
// tests/integration (real stacks against eu-stack, leaks against the program's own ledger).
#include "unwind/walk.h"

#include "unwind/frame_by_code.h"
#include "unwind/rule_cache.h"
#include "unwind/step.h"

#include <algorithm>
#include <array>

namespace dwunw::unwind {
namespace {

class Walk {
  public:
    Walk(const WalkRequest &request, bool interpret)
        : request_(request), arch_(request.arch), interpret_(interpret), registers_(request.registers) {}

    WalkResult run() {
        result_.used_interpreter = interpret_;
        result_.status = walk_frames();
        return result_;
    }
    bool needs_interpreter() const { return needs_interpreter_; }

  private:
    dwunw_status walk_frames() {
        CodeAddr pc = CodeAddr::instruction(RunAddr(registers_[arch_.ra]));
        if (!begin_warm(pc)) {
            locate(pc.lookup());
            write_frame(pc, DWUNW_SOURCE_REGISTERS, location_.module, location_.bias);
        }

        while (true) {
            dwunw_frame_source source = interpret_ ? DWUNW_SOURCE_INTERPRETER : DWUNW_SOURCE_CFI;
            Step step;
            if (!walk_warm(pc, step))
                step = step_from(pc, source);
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

            const RunAddr outer(registers_[arch_.ra]);
            // The psABI does not say so, but every thread start that lacks an undefined-RA row pushes a zero.
            // Where a signal interrupted a call through a null pointer, it is the pc.
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
                registers_.set(arch_.ra, *original);
                pc = CodeAddr::return_address(RunAddr(*original));
                source = DWUNW_SOURCE_TRAMPOLINE;
                if (*original == 0)
                    return DWUNW_OK;
                locate(pc.lookup());
            }
            if (location_.kind == CodeKind::kUnmapped) {
                if (pc.is_return_address())
                    return location_.status;
                // A signal's interrupted pc is a frame if it is known what called it.
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
        }
    }

    // Frame 0 where its rule and its place are warm.
    bool begin_warm(CodeAddr pc) {
        if (interpret_)
            return false;
        warm_ = request_.space.warm();
        if (warm_.rules == nullptr)
            return false;
        const auto rule = warm_.rules->find(pc, warm_.generation);
        const auto place = rule ? request_.space.place(rule->place(), warm_.generation) : std::nullopt;
        if (!place)
            return false;
        write_frame(pc, DWUNW_SOURCE_REGISTERS, place->module, place->bias);
        return true;
    }

    // Goes on from the frame at `pc` for as long as rules and places are warm. True with the last step in `step`: to a
    // frame that was not met before, or the root. False where `pc`'s own step is not one for the warm walk.
    bool walk_warm(CodeAddr &pc, Step &step) {
        if (warm_.rules == nullptr)
            return false;
        std::optional<PackedRule> rule = warm_.rules->find(pc, warm_.generation);
        if (!rule)
            return false;
        uint64_t sp = registers_[arch_.sp];
        uint64_t fp = registers_[arch_.fp];
        bool fp_known = registers_.known(arch_.fp);
        uint32_t place_number = CodeLocation::kNoPlace;
        Place place;
        bool done = false;
        while (true) {
            if (rule->is_root()) {
                step.outcome = Step::Outcome::kRoot;
                done = true;
                break;
            }
            const bool by_fp = rule->is_without_cfi();
            if (by_fp && (request_.cfi_only || !fp_known || fp % 8 != 0 || fp < sp))
                break; // step_by_code() may know another way
            if (rule->cfa_from_fp() && !fp_known)
                break;
            RunAddr cfa((rule->cfa_from_fp() ? fp : sp) + rule->cfa_offset());
            const bool from_other = rule->cfa_from_other();
            if (from_other) {
                if (!has_warm_register(*rule, pc))
                    break;
                cfa = RunAddr(registers_[rule->cfa_register()] + rule->offset_from_other());
            }
            const bool unmentioned = from_other && result_.written > 1;
            uint64_t outer = 0;
            if ((!rule->cfa_from_fp() && cfa.value <= sp) ||
                (unmentioned && cfa.value - sp > kLargestUnmentionedFrame) ||
                !request_.memory.read_slice(cfa - 8, &outer) || (outer == pc.pc().value && cfa.value == last_cfa_))
                break;
            if (unmentioned && known_call(RunAddr(outer)) != true)
                break;
            const CodeAddr outer_pc = CodeAddr::return_address(RunAddr(outer));
            auto outer_rule = warm_.rules->find(outer_pc, warm_.generation);
            if (outer_rule && outer_rule->place() != place_number) {
                const auto found = request_.space.place(outer_rule->place(), warm_.generation);
                place_number = found ? outer_rule->place() : CodeLocation::kNoPlace;
                if (found)
                    place = *found;
                else
                    outer_rule.reset();
            }
            if (by_fp && !frame_pointer_leads(*rule, sp, fp, outer_rule))
                break;
            if (rule->fp_distance() != 0) {
                if (!request_.memory.read_slice(cfa - rule->fp_distance(), &fp))
                    break;
                fp_known = true;
            }
            sp = cfa.value;
            rule = outer_rule;
            if (!rule || result_.written == request_.frames.size()) {
                registers_.set(arch_.ra, outer);
                step.outcome = Step::Outcome::kFrame;
                step.cfa = cfa.value;
                step.return_slot = (cfa - 8).value;
                step.cfa_unmentioned = unmentioned;
                done = true;
                break;
            }
            last_cfa_ = cfa.value;
            pc = outer_pc;
            after_call_ = outer_rule->is_after_call();
            request_.frames[result_.written - 1].cfa = cfa.value;
            if (unmentioned)
                request_.frames[result_.written - 1].flags |= DWUNW_FRAME_FLAG_CFA_UNMENTIONED;
            result_.unmentioned_frames += unmentioned;
            dwunw_frame &frame = request_.frames[result_.written++];
            frame.pc = outer;
            frame.sp = cfa.value;
            frame.cfa = 0;
            frame.module_offset = place.bias.link(RunAddr(outer)).value;
            frame.module = place.module;
            frame.flags = 0;
            frame.source = by_fp ? DWUNW_SOURCE_FRAME_POINTER : DWUNW_SOURCE_CFI;
            result_.frame_pointer_frames += by_fp;
        }
        registers_.set(arch_.sp, sp);
        if (fp_known)
            registers_.set(arch_.fp, fp);
        if (!done)
            registers_.set(arch_.ra, pc.pc().value);
        return done;
    }

    // Whether the register that `rule`, of the frame at `pc`, has its CFA from is known to be what it was in frame 0.
    bool has_warm_register(const PackedRule &rule, CodeAddr pc) const {
        const uint8_t reg = rule.cfa_register();
        if (!registers_.known(reg))
            return false;
        return result_.written == 1 ||
               (frame_0_called(pc) && !is_preserved(reg) &&
                warm_.rules->is_unwritten(RunAddr(request_.frames[0].pc), pc.pc(), reg, warm_.generation));
    }

    // Whether the frame at `pc` is frame 1 and was found by frame 0's table rule.
    bool frame_0_called(CodeAddr pc) const {
        return result_.written == 2 && pc.is_return_address() && request_.frames[1].source == DWUNW_SOURCE_CFI &&
               is_exact(request_.frames[0]);
    }

    bool is_preserved(uint8_t reg) const { return ((arch_.preserved >> reg) & 1) != 0; }

    static bool is_exact(const dwunw_frame &frame) {
        return (frame.flags & (DWUNW_FRAME_FLAG_EXACT_PC | DWUNW_FRAME_FLAG_SIGNAL)) == DWUNW_FRAME_FLAG_EXACT_PC;
    }

    // Whether step_by_code() would take the frame-pointer step, as far as that is known without looking at the process.
    bool frame_pointer_leads(const PackedRule &rule, uint64_t sp, uint64_t fp,
                             const std::optional<PackedRule> &outer_rule) const {
        uint64_t outer_fp = 0;
        if (!request_.memory.read_slice(RunAddr(fp), &outer_fp) || !outer_rule || !outer_rule->is_after_call())
            return false;
        return rule.frame_is_set_up() || may_be_callers(sp, fp) == false;
    }

    // Whether a call can end at an address, where that is known, and the code is still what it was.
    std::optional<bool> known_call(RunAddr address) const {
        const auto known = warm_.rules->follows_call(address, warm_.generation);
        return known && request_.space.is_warm_code(address - 1, warm_.generation) ? known : std::nullopt;
    }

    // Whether a word between SP and FP may be a return address.
    std::optional<bool> may_be_callers(uint64_t sp, uint64_t fp) const {
        if (fp - sp > kSearchedFrame)
            return true;
        for (; sp < fp; sp += 8) {
            uint64_t word = 0;
            if (!request_.memory.read_slice(RunAddr(sp), &word))
                return std::nullopt;
            if (!request_.space.is_code(RunAddr(word) - 1))
                continue;
            const auto called = known_call(RunAddr(word));
            if (!called || *called)
                return called;
        }
        return false;
    }

    // One step by whatever covers the pc; `source` becomes how the outer frame was found.
    Step step_from(CodeAddr pc, dwunw_frame_source &source) {
        locate(pc.lookup());
        if (location_.cfi == nullptr)
            return step_without_cfi(pc, location_.status, source);
        auto found = location_.cfi->rule_at(location_.bias.link(pc.lookup()));
        // Rules that end at the return address may be another function's, or another path's: what was returned to may
        // be no call's. A handler returns to the first byte of the trampoline, which in musl has no CFI; libgcc to a
        // landing pad. Whether the rules differ decides, not where a row ends: a table joins rows.
        const LinkAddr link = location_.bias.link(pc.pc());
        if (pc.is_return_address() && found.end == link) {
            const auto behind = location_.cfi->rule_at(link);
            if (found.status == DWUNW_OK && behind.status == DWUNW_ERR_NO_CFI && at_signal_trampoline(pc))
                return step_by_signal_trampoline(arch_, request_.memory, registers_);
            const bool differ =
                behind.status != found.status || (found.status == DWUNW_OK && behind.rule != found.rule);
            if (differ && inside(pc.pc()) && follows_call(arch_, request_.space, pc.pc()) == false) {
                pc = CodeAddr::instruction(pc.pc());
                request_.frames[result_.written - 1].flags |= DWUNW_FRAME_FLAG_EXACT_PC;
                found = behind;
                // A fiber's first frame.
                if (code_begins(pc.pc(), arch_.context_end))
                    return Step{.outcome = Step::Outcome::kRoot};
            }
        }
        if (found.status != DWUNW_OK)
            return step_without_cfi(pc, found.status, source);
        // A return address at a mapping's end may be the uretprobe trampoline's, which is the loop's business.
        if (inside(pc.pc()))
            remember(pc, PackedRule::pack(found.rule, arch_, location_.place));
        return step_by_row(found.rule, pc);
    }

    void remember(CodeAddr pc, std::optional<PackedRule> packed) {
        if (warm_.rules == nullptr || !packed)
            return;
        if (after_call_)
            packed->set_after_call();
        warm_.rules->insert(pc, warm_.generation, *packed);
    }

    // A frame-pointer step led to `pc`, so a call is before it.
    void remember_call(CodeAddr pc) {
        if (warm_.rules == nullptr)
            return;
        auto packed = warm_.rules->find(pc, warm_.generation);
        if (packed && !packed->is_after_call())
            remember(pc, packed);
    }

    Step step_by_row(const Rule &rule, CodeAddr pc) {
        const bool from_other =
            rule.cfa_kind == CfaKind::kRegister && !rule.carries_cfa(arch_) && rule.ra_kind != ValueKind::kUndefined;
        if (from_other && interpret_ && registers_.unmentioned(rule.cfa_reg))
            return step_by_unmentioned(rule, pc);
        // Table rules carry no such register from one frame to the next: only frame 0's is known.
        if (from_other && !interpret_ && result_.written > 1) {
            const bool may_be_unmentioned = !rule.needs_interpreter && frame_0_called(pc) &&
                                            registers_.known(rule.cfa_reg) && !is_preserved(rule.cfa_reg) &&
                                            is_unwritten(pc, rule.cfa_reg);
            return may_be_unmentioned ? step_by_unmentioned(rule, pc)
                                      : Step{.outcome = Step::Outcome::kNeedsInterpreter};
        }
        return step_by(rule, pc);
    }

    // A CFA from a register that the call may have changed, and that the function called says nothing of.
    Step step_by_unmentioned(const Rule &rule, CodeAddr pc) {
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
        const RunAddr outer(registers_[arch_.ra]);
        if (request_.space.find(outer).kind == CodeKind::kUprobeTrampoline ||
            follows_call(arch_, request_.space, outer).value_or(false))
            return step;
        registers_ = before;
        return stop;
    }

    // Whether the frame inside the one at `pc` is where its thread is, or was interrupted, and is known not to have
    // written a register.
    bool is_unwritten(CodeAddr pc, uint8_t reg) {
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

    Step step_by(const Rule &rule, CodeAddr pc) {
        // The interpreter sees the rows as they are written, not what the code has made of them.
        return interpret_ && rule.cfa_kind != CfaKind::kLost
                   ? step_by_interpreter(*location_.cfi, arch_, pc, location_.bias, request_.memory, registers_)
                   : step_by_rule(rule, arch_, pc.pc(), request_.memory, registers_);
    }

    Step step_without_cfi(CodeAddr pc, dwunw_status missing, dwunw_frame_source &source) {
        Step step;
        step.status = missing;
        const bool no_code =
            location_.kind == CodeKind::kUnmapped || pc.pc().value - arch_.kernel_code_start < arch_.kernel_code_size;
        if (no_code && !pc.is_return_address()) {
            const Step by_call = step_by_call(pc, registers_);
            source = DWUNW_SOURCE_CALL;
            return by_call;
        }
        // There are rules; they cannot be had, or not be trusted.
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
        // Of a file without any CFI, too.
        const bool at_entry = location_.is_entry_point(pc.lookup());
        if (at_entry && registers_.known(arch_.fp) && registers_[arch_.fp] == 0) {
            // psABI §3.4.1: rbp is zero at process entry, to mark the deepest frame.
            step.outcome = Step::Outcome::kRoot;
            return step;
        }
        // Between a clone system call and the branch behind it, the stack is the parent's or the child's.
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
            return step; // why there are no rules says more than that the code was no help
        return by_code.step;
    }

    std::optional<InnerFrame> inner_frame() const {
        if (result_.written < 2)
            return std::nullopt;
        const dwunw_frame &frame = request_.frames[result_.written - 2];
        const RunAddr pc(frame.pc);
        const bool exact = (frame.flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0;
        return InnerFrame{exact ? CodeAddr::instruction(pc) : CodeAddr::return_address(pc), RunAddr(frame.sp),
                          RunAddr(frame.cfa)};
    }

    Step step_by_call(CodeAddr pc, Registers &registers) {
        // What was called may be the content of any register.
        if (!interpret_ && result_.written > 1)
            return Step{.outcome = Step::Outcome::kNeedsInterpreter};
        Step step = unwind::step_by_call(arch_, request_.space, pc.pc(), request_.memory,
                                         original_return(registers[arch_.sp]), registers);
        // What is at the pc, if anything, says more.
        if (step.outcome == Step::Outcome::kStopped && step.status == DWUNW_ERR_NO_MAPPING &&
            location_.kind == CodeKind::kUnmapped)
            step.status = location_.status;
        return step;
    }

    std::optional<PackedRule> known_without_cfi(CodeAddr pc) const {
        const auto rule = warm_.rules != nullptr ? warm_.rules->find(pc, warm_.generation) : std::nullopt;
        return rule && rule->is_without_cfi() ? rule : std::nullopt;
    }

    // The way back from a clone system call: by the instructions, up to a return or to code that has CFI. `elsewhere`:
    // the code at `pc` has nothing to do with that.
    std::optional<Step> step_around_clone(CodeAddr pc, bool &elsewhere) {
        constexpr uint64_t kBytesBefore = 8;
        constexpr uint64_t kBytesAfter = 16;
        const uint64_t before = std::min(kBytesBefore, pc.pc() - location_.start);
        const uint64_t after = std::min(kBytesAfter, location_.end - pc.pc());
        std::array<uint8_t, kBytesBefore + kBytesAfter> buffer;
        const auto code = std::span(buffer).first(before + after);
        if (!request_.space.read_code(pc.pc() - before, code))
            return std::nullopt;
        // Table rules do not carry the result register from one frame to the next.
        if (!interpret_ && result_.written > 1)
            return Step{.outcome = Step::Outcome::kNeedsInterpreter};
        std::optional<uint64_t> result;
        if (registers_.known(arch_.result))
            result = registers_[arch_.result];
        const arch::CodeFlow flow = arch_.follow(code, before, result);
        elsewhere = flow.kind == arch::CodeFlow::Kind::kUnknown && flow.always;
        // The result decides where it goes on, and lies in memory that cannot be read.
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

    bool at_signal_trampoline(CodeAddr pc) {
        if (signal_trampoline_begins(pc.pc()))
            return true;
        return !pc.is_return_address() && pc.pc() - location_.start >= arch_.signal_trampoline_syscall &&
               signal_trampoline_begins(pc.pc() - arch_.signal_trampoline_syscall);
    }
    bool signal_trampoline_begins(RunAddr address) { return code_begins(address, arch_.signal_trampoline); }
    bool code_begins(RunAddr address, std::span<const uint8_t> expected) {
        std::array<uint8_t, 16> buffer;
        const auto code = std::span(buffer).first(expected.size());
        return request_.space.read_code(address, code) && std::ranges::equal(code, expected);
    }

    // A return address at the first byte of the trampoline's page looks up the byte before it.
    bool trampoline_at(CodeAddr pc) const {
        return pc.is_return_address() && !inside(pc.pc()) &&
               request_.space.find(pc.pc()).kind == CodeKind::kUprobeTrampoline;
    }

    std::optional<uint64_t> original_return(uint64_t slot) const {
        for (const dwunw_pending_return &pending : request_.pending_returns)
            if (slot != 0 && pending.slot == slot)
                return pending.return_address;
        return std::nullopt;
    }

    bool inside(RunAddr address) const { return address >= location_.start && address < location_.end; }

    void locate(RunAddr address) {
        if (inside(address))
            return;
        location_ = request_.space.find(address);
        if (!interpret_)
            warm_ = request_.space.warm();
    }

    void write_frame(CodeAddr pc, dwunw_frame_source source, const dwunw_module *module, LoadBias bias) {
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

    const WalkRequest &request_;
    const arch::Arch &arch_;
    const bool interpret_;
    Registers registers_;
    CodeLocation location_;
    AddressSpace::Warm warm_;
    std::optional<CodePaths> paths_; // made where code without CFI is first met
    uint64_t last_cfa_ = 0;
    bool after_call_ = false; // the last frame written has a call before its pc, for certain
    WalkResult result_;
    bool needs_interpreter_ = false;
};

} // namespace

WalkResult walk(const WalkRequest &request) {
    Walk by_table(request, false);
    const WalkResult result = by_table.run();
    return by_table.needs_interpreter() ? Walk(request, true).run() : result;
}

} // namespace dwunw::unwind
