// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The state of one walk: the current frame's registers, and the ways to the next frame. Private to the three files that
// define it:
//
//     walk.cc              the loop, and a step by a rule
//     warm_walk.cc         the loop for pcs that were met before
//     walk_without_cfi.cc  a step where no rule covers the pc
#pragma once

#include "unwind/code_paths.h"
#include "unwind/frame_by_code.h"
#include "unwind/rule_cache.h"
#include "unwind/step.h"
#include "unwind/walk.h"

#include <optional>
#include <span>

namespace dwunw::unwind {

class Walk {
  public:
    Walk(const WalkRequest &request, bool interpret)
        : request_(request), arch_(request.arch), interpret_(interpret), registers_(request.registers) {}

    WalkResult run();
    bool needs_interpreter() const { return needs_interpreter_; }

  private:
    // --- walk.cc

    dwunw_status walk_frames();
    // Records how the step was made, in the last written frame and in the result.
    void note(const Step &step);
    // Writes the frame that `step` from `pc` led to, with its source, and sets `pc` to that frame's pc. nullopt: the
    // walk continues. Otherwise it ends with the status.
    std::optional<dwunw_status> arrive(const Step &step, dwunw_frame_source source, CodeAddr &pc);

    // One step by whatever covers the pc. Sets `source` to the way in which the outer frame was found.
    Step step_from(CodeAddr pc, dwunw_frame_source &source);
    Step step_by_row(const Rule &rule, CodeAddr pc);
    // A CFA from a register that the call may have changed, and that no rule of the called function mentions.
    Step step_by_unmentioned(const Rule &rule, CodeAddr pc);
    Step step_by(const Rule &rule, CodeAddr pc);

    // Whether the frame at `pc` is frame 1 and was found by frame 0's table rule.
    bool frame_0_called(CodeAddr pc) const;
    // Whether the inner frame of the one at `pc` is the thread's current or interrupted one, and is known not to have
    // written the register.
    bool is_unwritten(CodeAddr pc, uint8_t reg);
    bool is_preserved(uint8_t reg) const { return ((arch_.preserved >> reg) & 1) != 0; }

    // Stores a rule in the rule cache.
    void remember(CodeAddr pc, std::optional<PackedRule> packed);
    // Stores that a call is before `pc`, because a frame-pointer step led there.
    void remember_call(CodeAddr pc);

    // A return address at the first byte of the trampoline's page is looked up at the byte before it.
    bool trampoline_at(CodeAddr pc) const;
    std::optional<uint64_t> original_return(uint64_t slot) const;
    bool code_begins(RunAddr address, std::span<const uint8_t> expected);

    bool inside(RunAddr address) const { return address >= location_.start && address < location_.end; }
    void locate(RunAddr address);
    void write_frame(CodeAddr pc, dwunw_frame_source source, const dwunw_module *module, LoadBias bias);

    // --- warm_walk.cc

    // Writes frame 0 if its rule and its place are warm.
    bool begin_warm(CodeAddr pc);
    // Continues from the frame at `pc` while rules and places are warm. True: `step` is the last step, to a frame that
    // is not warm, or to the root. False: the warm walk cannot make `pc`'s own step.
    bool walk_warm(CodeAddr &pc, Step &step);
    struct WarmFrame;
    // The CFA of the frame at `pc` by its rule; nullopt: the warm walk cannot compute it.
    std::optional<RunAddr> warm_cfa(const PackedRule &rule, CodeAddr pc, uint64_t sp, uint64_t fp, bool fp_known) const;
    void write_warm_frame(const WarmFrame &frame);
    // Whether the register of the rule's CFA, in the frame at `pc`, is known to have its value of frame 0.
    bool has_warm_register(const PackedRule &rule, CodeAddr pc) const;
    // Whether step_by_code() would take the frame-pointer step, if that is known without asking the process.
    bool frame_pointer_leads(const PackedRule &rule, uint64_t sp, uint64_t fp,
                             const std::optional<PackedRule> &outer_rule) const;
    // Whether a call can end at an address, if that is known and the code is unchanged.
    std::optional<bool> known_call(RunAddr address) const;

    // --- walk_without_cfi.cc

    // `missing`: the reason why there is no rule.
    Step step_without_cfi(CodeAddr pc, dwunw_status missing, dwunw_frame_source &source);
    Step step_by_call(CodeAddr pc, Registers &registers);
    // The way back from a clone system call: follows the instructions up to a return, or to code with CFI. `elsewhere`:
    // the code at `pc` is not around a clone system call.
    std::optional<Step> step_around_clone(CodeAddr pc, bool &elsewhere);
    std::optional<InnerFrame> inner_frame() const;
    std::optional<PackedRule> known_without_cfi(CodeAddr pc) const;
    bool at_signal_trampoline(CodeAddr pc);
    bool signal_trampoline_begins(RunAddr address) { return code_begins(address, arch_.signal_trampoline); }

    const WalkRequest &request_;
    const arch::Arch &arch_;
    const bool interpret_;
    Registers registers_;
    CodeLocation location_;
    AddressSpace::Warm warm_;
    std::optional<PackedRule> first_rule_; // frame 0's, from begin_warm() to walk_warm()
    std::optional<CodePaths> paths_;       // made at the first code without CFI
    uint64_t last_cfa_ = 0;
    bool after_call_ = false; // a call is certainly before the pc of the last written frame
    WalkResult result_;
    bool needs_interpreter_ = false;
};

} // namespace dwunw::unwind
