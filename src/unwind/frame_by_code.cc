// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proves a step in code without CFI.
//
//     f:  …                             g:  push %rbx
//         call g                            sub  $16, %rsp
//         …   ← the word at SP + 24         …   ← the pc
//                                           add  $16, %rsp; pop %rbx; ret
//
// g's path to its `ret` says that the return address is at SP + 24. The witness: the word there follows `call g`, and
// g's code reaches the pc with exactly this distance.
//
// The code is followed to its ends (code_paths.h). A path without a call is certain: the thread will execute it. So the
// place to which it returns holds the return address, whatever else the stack holds. Code behind a call is executed
// only if the callee returns. Code behind a call that never returns (exit, abort, a throw) is another block, perhaps of
// another function, with another frame. So a path over calls, which includes a return address's own call, needs a
// witness:
//
//     the caller   The word at the supposed return address follows a direct call, and the code from that call's target
//                  reaches the pc with exactly this distance to the return address. If the target's code does not reach
//                  the pc, the word belongs to another call, and the step is refused.
//     the prologue `push %rbp; mov %rsp, %rbp` before the pc, from where the code reaches the pc with that frame
//     pointer. the stack    No word between SP and FP is a return address. A function without a frame pointer of its
//     own has its
//                  return address there.
//     the values   FP is the very address from which the code at the function's end takes the outer FP.
//     the callee   For an unknown caller (it called through a pointer or a PLT): the inner frame is on a path to its
//     own
//                  return, every path from the pc agrees, and the return address has the psABI's alignment.
//
// A return address by SP needs the caller; or the callee, if the caller is unknown. A frame-pointer step needs one of
// these:
//   - the caller;
//   - paths to an end that restores FP, together with the prologue or the stack;
//   - the values;
//   - the prologue with the stack, where FP − SP has the value that the code gives. If no path decides (a function that
//     never returns has no end), the words above SP are asked for their callers, and the first one with that witness is
//     taken.
//
// Proved by tests/unit/unwind_frame_by_code_test, and by tests/integration/frames_without_cfi_test.py on whole
// programs.
#include "unwind/frame_by_code.h"

#include <algorithm>
#include <array>

namespace dwunw::unwind {
namespace {

using Base = CodeValue::Base;

constexpr uint64_t kWord = sizeof(uint64_t);
// How far above SP a caller is searched, and with how many walks over code.
constexpr uint64_t kSearchedStack = 4096;
constexpr size_t kMostCallersAsked = 16;
// How far above SP a frame pointer may be and still be plausible, if the slice ends before it.
constexpr uint64_t kPlausibleFrame = uint64_t{1} << 20;

// The result that all paths that count agree on.
struct Way {
    bool agreed = false;
    bool without_calls = false;
    bool unanimous = false; // all paths are known and agree
    bool for_any_sp = true; // for every value of SP
    bool ends_by_jump = false;
    bool fits_sp = true; // if it ends by a jump: SP is at the return address there
    CodeValue slot;      // the return address's
    CodeValue fp;        // FP there
    bool by_fp() const { return agreed && slot.base == Base::kFp; }
    bool by_sp() const { return agreed && slot.base == Base::kSp; }
};

constexpr CodeState kNoState{{}, {}, {}};

enum class Witness : uint8_t { kNone, kFor, kAgainst };

class StepByCode {
  public:
    StepByCode(const arch::Arch &arch, AddressSpace &space, CodePaths &paths, CodeAddr pc,
               const std::optional<InnerFrame> &inner, const StackMemory &memory, Registers &registers)
        : arch_(arch), space_(space), paths_(paths), pc_(pc), inner_(inner), memory_(memory), registers_(registers),
          sp_(registers[arch.sp]), fp_(registers[arch.fp]), fp_known_(registers.known(arch.fp)) {}

    FrameByCode run() {
        const CodeLocation location = space_.find(pc_.lookup());
        is_file_ = location.kind == CodeKind::kModule;
        Way way;
        // Code behind a mapping's last instruction does not belong to the function; nor does code behind a call that
        // never returns.
        const auto called = pc_.is_return_address() ? directly_called(pc_.pc()) : std::nullopt;
        const bool goes_on = !called || !paths_.never_returns(*called);
        if (pc_.pc() >= location.start && pc_.pc() < location.end && goes_on)
            way = agreement(paths_.exits(pc_));
        if (way.without_calls) {
            // A thread that is about to return will return, whatever the stack holds.
            const auto found = way.by_sp() ? sp_ + offset(way.slot) : fp_ + kWord;
            if (way.by_fp() && !way.ends_by_jump)
                frame_pointer_ = FrameByCode::FramePointer::kIsSetUp;
            if (way.by_fp() && !may_be_frame_pointer())
                return refused();
            return take(found, way, kNoState, way.by_fp());
        }
        if (way.by_sp())
            if (const auto result = by_sp(way))
                return *result;
        if (const auto result = by_frame_pointer(way))
            return *result;
        if (const auto result = by_caller(way))
            return *result;
        return refused();
    }

  private:
    static uint64_t offset(CodeValue value) { return static_cast<uint64_t>(int64_t{value.offset}); }
    // The address that a value means.
    std::optional<RunAddr> resolve(CodeValue value) const {
        if (value.base == Base::kSp || value.base == Base::kAtSp)
            return sp_ + offset(value);
        if ((value.base == Base::kFp || value.base == Base::kAtFp) && fp_known_)
            return fp_ + offset(value);
        return std::nullopt;
    }

    FrameByCode refused() const {
        FrameByCode result;
        result.step.status = why_;
        result.frame_pointer = frame_pointer_;
        return result;
    }

    Way agreement(const CodeExits &exits) const {
        Way way;
        bool any = false;
        bool differ = false;
        bool unknown = false;
        const auto all = std::span(exits.exits).first(exits.count);
        const bool has_direct = std::ranges::any_of(all, [](const CodeExit &exit) { return exit.calls == 0; });
        for (const CodeExit &exit : all) {
            if (has_direct && exit.calls != 0)
                continue;
            CodeValue slot = exit.slot;
            if (exit.is_jump && slot.base == Base::kSp) {
                // Code that follows a linked list looks the same, except for SP.
                way.fits_sp = way.fits_sp && fp_known_ && sp_ + offset(slot) == fp_ + kWord;
                way.ends_by_jump = true;
                slot = {Base::kFp, kWord};
            } else if (slot.base == Base::kSp) {
                // A psABI function that is entered in the middle, behind a call that never returns.
                if (!has_direct && is_file_ &&
                    (sp_.value + offset(slot)) % arch_.stack_alignment != arch_.entry_misalignment) {
                    way.for_any_sp = false;
                    continue;
                }
                // The word that was just pushed is a jump's target.
                if (slot.offset < 0 || exit.removed != 0)
                    slot = {};
            } else if (slot != CodeValue{Base::kFp, kWord} || exit.fp != CodeValue{Base::kAtFp, 0}) {
                slot = {};
            }
            if (slot.base == Base::kUnknown) {
                unknown = true;
                continue;
            }
            differ = differ || (any && slot != way.slot);
            way.fp = any && exit.fp != way.fp ? CodeValue{} : exit.fp;
            way.slot = slot;
            any = true;
        }
        way.agreed = any && !differ;
        way.unanimous = way.agreed && !unknown;
        way.without_calls = way.unanimous && has_direct && way.fits_sp;

        return way;
    }

    // The return address in a slot, if it follows a call.
    std::optional<RunAddr> return_address(RunAddr slot) {
        const auto word = memory_.read_word(slot);
        if (!word) {
            if (slot - sp_ < kPlausibleFrame && why_ == DWUNW_ERR_NO_CFI)
                why_ = word.error().status;
            return std::nullopt;
        }
        const RunAddr address(*word);
        // The trampoline of a pending uretprobe replaces a return address, which follows a call.
        if (space_.find(address).kind == CodeKind::kUprobeTrampoline)
            return address;
        return follows_call(arch_, space_, address).value_or(false) ? std::optional(address) : std::nullopt;
    }

    // --- witnesses

    std::optional<RunAddr> directly_called(RunAddr return_address) {
        const CodeLocation location = space_.find(return_address - 1);
        if (location.kind == CodeKind::kUnmapped)
            return std::nullopt;
        std::array<uint8_t, 16> buffer;
        const size_t length = std::min<uint64_t>(arch_.max_call_length, return_address - location.start);
        const auto code = std::span(buffer).first(length);
        if (!space_.read_code(return_address - length, code))
            return std::nullopt;
        const auto target = arch_.direct_call(code);
        return target ? std::optional(return_address + static_cast<uint64_t>(*target)) : std::nullopt;
    }

    // Whether the call before `return_address`, which lies in `slot`, called the code at the pc.
    Witness caller(RunAddr slot, RunAddr return_address, CodeState &state) {
        const auto callee = directly_called(return_address);
        if (!callee)
            return Witness::kNone;
        const CodeReach reach = paths_.reach(*callee, pc_);
        state = reach.state;
        if (reach.reached) {
            const bool sp_known = reach.state.sp.base == Base::kSp;
            const bool has_frame = reach.state.fp.base == Base::kSp;
            const bool sp_fits = sp_known && slot + offset(reach.state.sp) == sp_;
            const bool fp_fits = has_frame && fp_known_ && slot + offset(reach.state.fp) == fp_;
            if ((sp_known && !sp_fits) || (has_frame && fp_known_ && !fp_fits))
                return Witness::kAgainst;
            return sp_fits || fp_fits ? Witness::kFor : Witness::kNone;
        }
        if (reach.complete)
            return Witness::kAgainst;
        // A jump by a table keeps the frame; a jump out of a PLT leaves without a frame.
        const auto jumps = std::span(reach.jumps).first(reach.jump_count);
        const auto fits = [&](CodeValue sp) { return sp.base == Base::kSp && slot + offset(sp) == sp_; };
        const auto says_nothing = [](CodeValue sp) { return sp.base != Base::kSp || sp == CodeValue{Base::kSp, 0}; };
        return jumps.empty() || std::ranges::any_of(jumps, fits) || std::ranges::all_of(jumps, says_nothing)
                   ? Witness::kNone
                   : Witness::kAgainst;
    }

    // Whether the inner frame is on its way back to the pc.
    bool callee_returns() {
        if (!pc_.is_return_address())
            return true;
        if (!inner_)
            return false;
        const CodeExits exits = paths_.exits(inner_->pc);
        for (const CodeExit &exit : std::span(exits.exits).first(exits.count)) {
            if (exit.slot.base == Base::kSp && inner_->sp + offset(exit.slot) + kWord == inner_->cfa)
                return true;
            if (exit.slot == CodeValue{Base::kFp, kWord} && exit.fp == CodeValue{Base::kAtFp, 0})
                return true;
        }
        const auto callee = directly_called(pc_.pc());
        return callee && paths_.reach(*callee, pc_).returns;
    }

    struct Prologue {
        bool reaches = false;      // the pc, with the pc's FP
        bool fits_exactly = false; // FP − SP has the value that the code gives
    };
    Prologue prologue() {
        Prologue result;
        if (const auto way = paths_.prologue(pc_)) {
            const CodeState &state = way->state;
            result.reaches = true;
            result.fits_exactly =
                state.sp.base == Base::kSp && fp_known_ && fp_ - sp_ == offset(state.fp) - offset(state.sp);
        }
        return result;
    }

    // Whether a word between SP and FP may be a return address. True if that is not known.
    bool may_be_callers() {
        const auto read = [&](RunAddr slot) { return memory_.read_word(slot); };
        const auto is_call = [&](RunAddr address) { return follows_call(arch_, space_, address); };
        return unwind::may_be_callers(space_, sp_, fp_, read, is_call).value_or(true);
    }

    bool may_be_frame_pointer() {
        if (!fp_known_) {
            const dwunw_status why = registers_.why_unknown(arch_.fp);
            why_ = why == DWUNW_ERR_REGISTER_UNKNOWN ? why_ : why;
            return false;
        }
        return fp_.value % kWord == 0 && fp_ >= sp_ && fp_.value <= ~uint64_t{0} - 2 * kWord;
    }

    // --- the ways

    std::optional<FrameByCode> by_sp(const Way &way) {
        const RunAddr slot = sp_ + offset(way.slot);
        const auto address = return_address(slot);
        if (!address)
            return std::nullopt;
        if (fp_known_ && fp_ + kWord == slot && way.fp == CodeValue{Base::kAtSp, way.slot.offset - int32_t{kWord}})
            return take(slot, way, kNoState, true);
        CodeState state;
        const Witness witness = caller(slot, *address, state);
        if (witness == Witness::kFor)
            return take(slot, way, state, false);
        if (witness == Witness::kNone && way.unanimous && callee_returns())
            return take(slot, way, kNoState, false);
        return std::nullopt;
    }

    std::optional<FrameByCode> by_frame_pointer(const Way &way) {
        std::optional<Prologue> begin;
        if (way.by_fp()) {
            begin = prologue();
            if (way.for_any_sp)
                frame_pointer_ =
                    begin->reaches ? FrameByCode::FramePointer::kIsSetUp : FrameByCode::FramePointer::kIfAlone;
        }
        if (!may_be_frame_pointer())
            return std::nullopt;
        const RunAddr slot = fp_ + kWord;
        const auto address = return_address(slot);
        if (!address)
            return std::nullopt;
        Way taken;
        taken.fp = {Base::kAtFp, 0};
        if (begin && begin->reaches)
            return take(slot, taken, kNoState, true);
        const bool alone = !way.by_sp() && !may_be_callers();
        if (alone && way.by_fp() && way.fits_sp)
            return take(slot, taken, kNoState, true);
        CodeState state;
        const Witness witness = caller(slot, *address, state);
        if (witness == Witness::kFor && state.fp.base == Base::kSp)
            return take(slot, taken, state, true);
        if (witness == Witness::kAgainst || way.by_sp())
            return std::nullopt;
        if (!begin)
            begin = prologue();
        if (begin->reaches && begin->fits_exactly && alone)
            return take(slot, taken, kNoState, true);
        return std::nullopt;
    }

    std::optional<FrameByCode> by_caller(const Way &way) {
        size_t asked = 0;
        for (uint64_t distance = 0; distance < kSearchedStack && asked < kMostCallersAsked; distance += kWord) {
            const RunAddr slot = sp_ + distance;
            const auto word = memory_.read_word(slot);
            if (!word)
                break; // end of the stack or of the slice
            const RunAddr address(*word);
            if ((is_file_ && slot.value % arch_.stack_alignment != arch_.entry_misalignment) ||
                !space_.is_code(address - 1) || !follows_call(arch_, space_, address).value_or(false))
                continue;
            ++asked;
            CodeState state;
            if (caller(slot, address, state) != Witness::kFor)
                continue;
            Way taken;
            if (way.by_sp() && sp_ + offset(way.slot) == slot)
                taken.fp = way.fp;
            return take(slot, taken, state, false);
        }
        return std::nullopt;
    }

    // `way.fp` gives the outer FP; if it does not, `state` does, the state of the code from the function's start.
    FrameByCode take(RunAddr slot, const Way &way, const CodeState &state, bool by_frame_pointer) {
        const auto word = memory_.read_word(slot);
        if (!word) {
            if (slot - sp_ < kPlausibleFrame)
                why_ = word.error().status;
            return refused();
        }
        const RunAddr address(*word);
        if (!return_address(slot) && !is_signal_trampoline(address))
            return refused();
        Registers outer;
        const RunAddr cfa = slot + kWord;
        outer.set(arch_.sp, cfa.value);
        outer.set_return_address(address.value);
        if (way.fp == CodeValue{Base::kFp, 0}) {
            if (fp_known_)
                outer.set(arch_.fp, fp_.value);
        } else if (way.fp.base == Base::kAtSp || way.fp.base == Base::kAtFp) {
            restore_fp(resolve(way.fp), outer);
        } else if (state.fp == CodeValue{Base::kFp, 0}) {
            if (fp_known_)
                outer.set(arch_.fp, fp_.value);
        } else if (state.saved_fp.base == Base::kSp) {
            restore_fp(slot + offset(state.saved_fp), outer);
        }
        FrameByCode result;
        result.by_frame_pointer = by_frame_pointer;
        result.frame_pointer = frame_pointer_;
        result.step.return_slot = slot.value;
        result.step.cfa = cfa.value;
        result.step.outcome = Step::Outcome::kFrame;
        registers_ = outer;
        return result;
    }

    void restore_fp(std::optional<RunAddr> slot, Registers &outer) {
        if (!slot)
            return;
        if (const auto value = memory_.read_word(*slot))
            outer.set(arch_.fp, *value);
        else
            outer.forget(arch_.fp, value.error().status);
    }

    // A handler returns to a trampoline, which no call precedes.
    bool is_signal_trampoline(RunAddr address) {
        std::array<uint8_t, 16> buffer;
        const auto code = std::span(buffer).first(arch_.signal_trampoline.size());
        return space_.read_code(address, code) && std::ranges::equal(code, arch_.signal_trampoline);
    }

    const arch::Arch &arch_;
    AddressSpace &space_;
    CodePaths &paths_;
    const CodeAddr pc_;
    const std::optional<InnerFrame> &inner_;
    const StackMemory &memory_;
    Registers &registers_;
    const RunAddr sp_;
    const RunAddr fp_;
    const bool fp_known_;
    bool is_file_ = false;
    dwunw_status why_ = DWUNW_ERR_NO_CFI;
    std::optional<FrameByCode::FramePointer> frame_pointer_;
};

} // namespace

FrameByCode step_by_code(const arch::Arch &arch, AddressSpace &space, CodePaths &paths, CodeAddr pc,
                         const std::optional<InnerFrame> &inner, const StackMemory &memory, Registers &registers) {
    paths.begin_step();
    return StepByCode(arch, space, paths, pc, inner, memory, registers).run();
}

} // namespace dwunw::unwind
