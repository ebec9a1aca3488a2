// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The warm walk: most pcs of most stacks were met before and have a simple rule. A stack of three frames:
//
//     frame 0: pc 0x1040   RuleCache: CFA = SP + 24                 slice: the word at CFA − 8 is 0x1100
//     frame 1: pc 0x1100   RuleCache: CFA = FP + 16, FP at CFA − 16  slice: the word at CFA − 8 is 0x2042
//     frame 2: pc 0x2042   RuleCache: root                          done
//
// Each step is a lookup in the cache and one or two words of the slice. It does not ask the process. If a step cannot
// be made in this way, the warm walk changes nothing and leaves the step to walk.cc. So the warm walk is faster, but
// gives the same frames.
//
// Proved by tests/unit/unwind_walk_test: each stack is walked cold, warm, and again with the interpreter.
#include "unwind/walk_state.h"

namespace dwunw::unwind {

// A frame that the warm walk has found.
struct Walk::WarmFrame {
    uint64_t pc;
    RunAddr cfa; // of the inner frame, so it is this frame's SP
    const PlacedModule &place;
    bool by_fp;
    bool unmentioned;
};

bool Walk::begin_warm(CodeAddr pc) {
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
    first_rule_ = rule;
    return true;
}

[[gnu::always_inline]] inline std::optional<RunAddr> Walk::warm_cfa(const PackedRule &rule, CodeAddr pc, uint64_t sp,
                                                                    uint64_t fp, bool fp_known) const {
    if (rule.is_without_cfi() && (request_.cfi_only || !fp_known || fp % 8 != 0 || fp < sp))
        return std::nullopt; // step_by_code() may know another way
    if (rule.cfa_from_fp())
        return fp_known ? std::optional(RunAddr(fp + rule.cfa_offset())) : std::nullopt;
    RunAddr cfa(sp + rule.cfa_offset());
    if (rule.cfa_from_other()) {
        if (!has_warm_register(rule, pc))
            return std::nullopt;
        cfa = RunAddr(registers_[rule.cfa_register()] + rule.offset_from_other());
        if (result_.written > 1 && cfa.value - sp > kLargestUnmentionedFrame)
            return std::nullopt;
    }
    return cfa.value > sp ? std::optional(cfa) : std::nullopt;
}

[[gnu::always_inline]] inline void Walk::write_warm_frame(const WarmFrame &found) {
    dwunw_frame &inner = request_.frames[result_.written - 1];
    inner.cfa = found.cfa.value;
    if (found.unmentioned)
        inner.flags |= DWUNW_FRAME_FLAG_CFA_UNMENTIONED;
    result_.unmentioned_frames += found.unmentioned;
    dwunw_frame &frame = request_.frames[result_.written++];
    frame.pc = found.pc;
    frame.sp = found.cfa.value;
    frame.cfa = 0;
    frame.module_offset = found.place.bias.link(RunAddr(found.pc)).value;
    frame.module = found.place.module;
    frame.flags = 0;
    frame.source = found.by_fp ? DWUNW_SOURCE_FRAME_POINTER : DWUNW_SOURCE_CFI;
    result_.frame_pointer_frames += found.by_fp;
}

bool Walk::has_warm_register(const PackedRule &rule, CodeAddr pc) const {
    const uint8_t reg = rule.cfa_register();
    if (!registers_.known(reg))
        return false;
    return result_.written == 1 ||
           (frame_0_called(pc) && !is_preserved(reg) &&
            warm_.rules->is_unwritten(RunAddr(request_.frames[0].pc), pc.pc(), reg, warm_.generation));
}

bool Walk::frame_pointer_leads(const PackedRule &rule, uint64_t sp, uint64_t fp,
                               const std::optional<PackedRule> &outer_rule) const {
    uint64_t outer_fp = 0;
    if (!request_.memory.read_slice(RunAddr(fp), &outer_fp) || !outer_rule || !outer_rule->is_after_call())
        return false;
    if (rule.frame_is_set_up())
        return true;
    const auto read = [&](RunAddr slot) -> std::optional<uint64_t> {
        uint64_t word = 0;
        return request_.memory.read_slice(slot, &word) ? std::optional(word) : std::nullopt;
    };
    const auto is_call = [&](RunAddr address) { return known_call(address); };
    return may_be_callers(request_.space, RunAddr(sp), RunAddr(fp), read, is_call) == false;
}

std::optional<bool> Walk::known_call(RunAddr address) const {
    const auto known = warm_.rules->follows_call(address, warm_.generation);
    return known && request_.space.is_warm_code(address - 1, warm_.generation) ? known : std::nullopt;
}

bool Walk::walk_warm(CodeAddr &pc, Step &step) {
    if (warm_.rules == nullptr)
        return false;
    // What the loop below cannot change, so that the compiler need not read it again after each frame.
    const RuleCache &rules = *warm_.rules;
    const uint64_t generation = warm_.generation;
    const StackMemory &memory = request_.memory;
    const size_t most = request_.frames.size();
    std::optional<PackedRule> rule = first_rule_ ? first_rule_ : rules.find(pc, generation);
    first_rule_.reset();
    if (!rule)
        return false;
    uint64_t sp = registers_[arch_.sp];
    uint64_t fp = registers_[arch_.fp];
    bool fp_known = registers_.known(arch_.fp);
    uint32_t place_number = CodeLocation::kNoPlace;
    PlacedModule place;
    bool done = false;
    while (true) {
        if (rule->is_root()) {
            step.outcome = Step::Outcome::kRoot;
            done = true;
            break;
        }
        const auto cfa = warm_cfa(*rule, pc, sp, fp, fp_known);
        uint64_t outer = 0;
        if (!cfa)
            break;
        const RunAddr slot = *cfa - rule->return_distance();
        if (!memory.read_slice(slot, &outer))
            break;
        outer = arch::selected::return_address(outer);
        if (outer == pc.pc().value && cfa->value == last_cfa_)
            break;
        const bool by_fp = rule->is_without_cfi();
        const bool unmentioned = rule->cfa_from_other() && result_.written > 1;
        if (unmentioned && known_call(RunAddr(outer)) != true)
            break;
        const CodeAddr outer_pc = CodeAddr::return_address(RunAddr(outer));
        auto outer_rule = rules.find(outer_pc, generation);
        if (outer_rule && outer_rule->place() != place_number) {
            const auto found = request_.space.place(outer_rule->place(), generation);
            place_number = found ? outer_rule->place() : CodeLocation::kNoPlace;
            if (found)
                place = *found;
            else
                outer_rule.reset();
        }
        if (by_fp && !frame_pointer_leads(*rule, sp, fp, outer_rule))
            break;
        if (rule->fp_distance() != 0) {
            if (!memory.read_slice(*cfa - rule->fp_distance(), &fp))
                break;
            fp_known = true;
        }
        sp = cfa->value;
        rule = outer_rule;
        if (!rule || result_.written == most) {
            registers_.set_return_address(outer);
            step.outcome = Step::Outcome::kFrame;
            step.cfa = cfa->value;
            step.return_slot = slot.value;
            step.cfa_unmentioned = unmentioned;
            done = true;
            break;
        }
        last_cfa_ = cfa->value;
        pc = outer_pc;
        after_call_ = outer_rule->is_after_call();
        write_warm_frame({outer, *cfa, place, by_fp, unmentioned});
    }
    registers_.set(arch_.sp, sp);
    if (fp_known)
        registers_.set(arch_.fp, fp);
    if (!done && pc.is_return_address())
        registers_.set_return_address(pc.pc().value);
    return done;
}

} // namespace dwunw::unwind
