// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests each kind of step, from known registers and stack words to the outer frame's, and each way in which it ends.
#include "unwind/step.h"

#include "support/fake_space.h"

namespace dwunw::unwind {
namespace {

using namespace dwarf;
using testing::Bytes;
using testing::FakeSpace;
using testing::FakeStack;
using testing::FrameSection;
using testing::registers;
using testing::x86_64;
using enum testing::Reg;

constexpr uint64_t kStack = 0x7ff000; // the lowest word that is there
constexpr uint64_t kSp = kStack + 128;
constexpr RunAddr kPc(0x401234);

FakeStack stack() { return {kStack, 64}; }

Rule usual_rule() { return {.cfa_reg = RSP, .ra_kind = ValueKind::kAtCfa, .cfa_offset = 8, .ra_offset = -8}; }

TEST(StepByRule, SavedAtTheCfa) {
    Rule rule = usual_rule();
    rule.cfa_offset = 32;
    rule.fp_kind = ValueKind::kAtCfa;
    rule.fp_offset = -16;
    const FakeStack memory = stack().set(kSp + 24, 0x402000).set(kSp + 16, 0x1234);
    Registers regs = registers({{RSP, kSp}, {RBP, 7}, {RIP, kPc.value}});
    const Step step = step_by_rule(rule, x86_64(), kPc, memory.memory(), regs);
    ASSERT_EQ(step.outcome, Step::Outcome::kFrame);
    EXPECT_EQ(step.cfa, kSp + 32);
    EXPECT_EQ(step.return_slot, kSp + 24);
    EXPECT_EQ(regs[RSP], kSp + 32);
    EXPECT_EQ(regs[RIP], 0x402000u);
    EXPECT_EQ(regs[RBP], 0x1234u);
    EXPECT_FALSE(step.register_kept);
}

TEST(StepByRule, FromTheFramePointer) {
    Rule rule = usual_rule();
    rule.cfa_reg = RBP;
    rule.cfa_offset = 16;
    rule.fp_kind = ValueKind::kAtCfa;
    rule.fp_offset = -16;
    const FakeStack memory = stack().set(kSp + 40, 0x5555).set(kSp + 48, 0x402000);
    Registers regs = registers({{RSP, kSp}, {RBP, kSp + 40}, {RIP, kPc.value}});
    ASSERT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).outcome, Step::Outcome::kFrame);
    EXPECT_EQ(regs[RSP], kSp + 56);
    EXPECT_EQ(regs[RBP], 0x5555u);

    regs = registers({{RSP, kSp}, {RIP, kPc.value}});
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).status, DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(regs[RSP], kSp); // as it was
}

// libgcc's _Unwind_Resume ends in `pop %rcx; jmp *%rcx`: there the CFA is SP itself.
TEST(StepByRule, APoppedReturnAddressLeavesTheCfaAtSp) {
    Rule rule = usual_rule();
    rule.cfa_offset = 0;
    const FakeStack memory = stack().set(kSp - 8, 0x403000);
    Registers regs = registers({{RSP, kSp}, {RCX, 0x402000}, {RIP, kPc.value}});
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).status, DWUNW_ERR_NO_PROGRESS);
    rule.ra_kind = ValueKind::kRegister;
    rule.ra_reg = RCX;
    ASSERT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).outcome, Step::Outcome::kFrame);
    EXPECT_EQ(regs[RIP], 0x402000u);
    EXPECT_EQ(regs[RSP], kSp);
    rule.cfa_offset = -8;
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).status, DWUNW_ERR_NO_PROGRESS);
}

TEST(StepByRule, ThePltCountsItsPush) {
    Rule rule = usual_rule();
    rule.cfa_kind = CfaKind::kPlt;
    rule.cfa_addend = 11;
    const FakeStack memory = stack().set(kSp, 0x402000).set(kSp + 8, 0x403000);
    for (uint64_t low = 0; low < 16; ++low) {
        Registers regs = registers({{RSP, kSp}, {RIP, 0}});
        ASSERT_EQ(step_by_rule(rule, x86_64(), RunAddr(0x401020 + low), memory.memory(), regs).outcome,
                  Step::Outcome::kFrame);
        EXPECT_EQ(regs[RIP], low < 11 ? 0x402000u : 0x403000u) << low;
        EXPECT_EQ(regs[RSP], low < 11 ? kSp + 8 : kSp + 16) << low;
    }
}

TEST(StepByRule, TheCfaMayLieInMemory) {
    // DRAP: CFA = *(rbp − 8).
    Rule rule = usual_rule();
    rule.cfa_kind = CfaKind::kDeref;
    rule.cfa_reg = RBP;
    rule.cfa_offset = -8;
    rule.cfa_addend = 0;
    rule.fp_kind = ValueKind::kAtRegister;
    rule.fp_reg = RBP;
    const FakeStack memory =
        stack().set(kSp + 32, kSp + 80).set(kSp + 40, 0x6666).set(kSp + 72, 0x402000); // rbp = kSp + 40
    Registers regs = registers({{RSP, kSp}, {RBP, kSp + 40}, {RIP, kPc.value}});
    ASSERT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).outcome, Step::Outcome::kFrame);
    EXPECT_EQ(regs[RSP], kSp + 80);
    EXPECT_EQ(regs[RBP], 0x6666u);
    EXPECT_EQ(regs[RIP], 0x402000u);
}

TEST(StepByRule, LibcryptosEpilogueReadsBelowSp) {
    // CFA = *(rsp − 8) + 8: needs the red zone in the slice.
    Rule rule = usual_rule();
    rule.cfa_kind = CfaKind::kDeref;
    rule.cfa_offset = -8;
    rule.cfa_addend = 8;
    const FakeStack memory = stack().set(kSp - 8, kSp + 16).set(kSp + 16, 0x402000);
    Registers regs = registers({{RSP, kSp}, {RIP, kPc.value}});
    ASSERT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).outcome, Step::Outcome::kFrame);
    EXPECT_EQ(regs[RIP], 0x402000u);
    EXPECT_EQ(regs[RSP], kSp + 24);
}

TEST(StepByRule, ARestoredRegisterBelowSpKeepsItsValue) {
    // At the ret of `leave; ret` the row still says that rbp is at rsp − 8.
    Rule rule = usual_rule();
    rule.fp_kind = ValueKind::kAtCfa;
    rule.fp_offset = -16;
    FakeStack memory(kSp, 8); // begins at SP
    memory.set(kSp, 0x402000);
    Registers regs = registers({{RSP, kSp}, {RBP, 0x777}, {RIP, kPc.value}});
    const Step step = step_by_rule(rule, x86_64(), kPc, memory.memory(), regs);
    ASSERT_EQ(step.outcome, Step::Outcome::kFrame);
    EXPECT_TRUE(step.register_kept);
    EXPECT_EQ(regs[RBP], 0x777u);

    // A slot above SP that is beyond the slice is another matter: the value is not known.
    rule.fp_offset = 0x1000;
    regs = registers({{RSP, kSp}, {RBP, 0x777}, {RIP, kPc.value}});
    const Step beyond = step_by_rule(rule, x86_64(), kPc, memory.memory(), regs);
    ASSERT_EQ(beyond.outcome, Step::Outcome::kFrame);
    EXPECT_FALSE(beyond.register_kept);
    EXPECT_FALSE(regs.known(RBP));
}

TEST(StepByRule, EachEndHasItsStatus) {
    const FakeStack memory = stack();
    Registers regs = registers({{RSP, kSp}, {RBP, 0}, {RIP, kPc.value}});
    const Registers before = regs;
    Rule rule = usual_rule();
    rule.ra_kind = ValueKind::kUndefined;
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).outcome, Step::Outcome::kRoot);
    rule = usual_rule();
    rule.needs_interpreter = true;
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).outcome, Step::Outcome::kNeedsInterpreter);
    rule = usual_rule();
    rule.cfa_offset = 0; // the stack pointer does not move
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).status, DWUNW_ERR_NO_PROGRESS);
    rule.cfa_offset = -8;
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).status, DWUNW_ERR_NO_PROGRESS);
    rule = usual_rule();
    rule.ra_kind = ValueKind::kSame; // the return address is this frame's
    EXPECT_EQ(step_by_rule(rule, x86_64(), kPc, memory.memory(), regs).status, DWUNW_ERR_NO_PROGRESS);
    rule = usual_rule();
    rule.cfa_offset = 0x1000; // beyond the slice
    const Step step = step_by_rule(rule, x86_64(), kPc, memory.memory(), regs);
    EXPECT_EQ(step.status, DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(step.cfa, kSp + 0x1000);
    for (const testing::Reg reg : {RSP, RBP, RIP})
        EXPECT_EQ(regs[reg], before[reg]);
}

class Interpreter : public ::testing::Test {
  protected:
    Step run(const Bytes &instructions, Registers &regs, const StackMemory &memory,
             const std::string &augmentation = "zR") {
        FrameSection section;
        section.fde(section.cie(testing::usual_cie_instructions(), augmentation), 0x1000, 0x1000, instructions);
        space_ = std::make_unique<FakeSpace>();
        space_->add_module(0x400000, 0x2000, section);
        const CodeLocation location = space_->find(kPc);
        return step_by_interpreter(*location.cfi, x86_64(), CodeAddr::instruction(kPc), location.bias, memory, regs);
    }
    std::unique_ptr<FakeSpace> space_;
};

TEST_F(Interpreter, EveryKindOfRegisterRule) {
    const FakeStack memory = stack()
                                 .set(kSp + 56, 0x402000) // return address at CFA − 8
                                 .set(kSp + 48, 0xb0b0)   // rbx at CFA − 16
                                 .set(kSp + 16, 0x1212);  // r12 at [r10 + 16]
    Registers regs = registers(
        {{RSP, kSp}, {RBP, 5}, {RBX, 6}, {R10, kSp}, {R13, 13}, {R14, 14}, {R15, 15}, {RAX, 1}, {RIP, kPc.value}});
    const Step step = run(Bytes()
                              .def_cfa(R10, 64)
                              .offset(RBX, 2)
                              .add({DW_CFA_expression, R12, 2, DW_OP_breg0 + 10, 16})
                              .add({DW_CFA_val_expression, R13, 2, DW_OP_plus_uconst, 3}) // CFA + 3
                              .add({DW_CFA_register, R14, RAX})
                              .add({DW_CFA_undefined, R15})
                              .add({DW_CFA_val_offset, R11, 4}), // CFA − 32
                          regs, memory.memory());
    ASSERT_EQ(step.outcome, Step::Outcome::kFrame);
    EXPECT_EQ(step.cfa, kSp + 64);
    EXPECT_EQ(step.return_slot, kSp + 56);
    EXPECT_EQ(regs[RSP], kSp + 64);
    EXPECT_EQ(regs[RIP], 0x402000u);
    EXPECT_EQ(regs[RBX], 0xb0b0u);
    EXPECT_EQ(regs[R12], 0x1212u);
    EXPECT_EQ(regs[R13], kSp + 67);
    EXPECT_EQ(regs[R14], 1u);
    EXPECT_FALSE(regs.known(R15));
    EXPECT_EQ(regs[R11], kSp + 32);
    EXPECT_EQ(regs[RBP], 5u); // preserved by the call
    // Not preserved: what r10 and rax were is lost.
    EXPECT_FALSE(regs.known(R10));
    EXPECT_FALSE(regs.known(RAX));
}

TEST_F(Interpreter, EachEndHasItsStatus) {
    const FakeStack memory = stack();
    const auto status = [&](const Bytes &instructions) {
        Registers regs = registers({{RSP, kSp}, {RIP, kPc.value}});
        const Step step = run(instructions, regs, memory.memory());
        EXPECT_NE(step.outcome, Step::Outcome::kFrame);
        EXPECT_EQ(regs[RSP], kSp);
        return step.status;
    };
    EXPECT_EQ(status(Bytes().def_cfa(R10, 8)), DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(status(Bytes({DW_CFA_same_value, RIP})), DWUNW_ERR_NO_PROGRESS);
    EXPECT_EQ(status(Bytes().def_cfa_offset(0)), DWUNW_ERR_NO_PROGRESS);
    EXPECT_EQ(status(Bytes().def_cfa_offset(0x1000)), DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(status(Bytes({DW_CFA_def_cfa_expression, 1, 0x96})), DWUNW_ERR_CFI_MALFORMED); // nop: empty stack
    EXPECT_EQ(status(Bytes({DW_CFA_def_cfa_expression, 1, 0x97})), DWUNW_ERR_UNSUPPORTED_EXPRESSION);
    EXPECT_EQ(status(Bytes({DW_CFA_register, RIP, R9})), DWUNW_ERR_REGISTER_UNKNOWN);

    Registers regs = registers({{RSP, kSp}, {RIP, kPc.value}});
    EXPECT_EQ(run(Bytes({DW_CFA_undefined, RIP}), regs, memory.memory()).outcome, Step::Outcome::kRoot);
}

TEST(StepBySignalTrampoline, EveryRegisterIsThatOfTheSignalFrame) {
    FakeStack memory = stack();
    // struct ucontext's registers, in the order of sigcontext: r8 is first, at SP + 40.
    const std::array order = {R8, R9, R10, R11, R12, R13, R14, R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP};
    for (size_t i = 0; i < order.size(); ++i)
        memory.set(kSp + 40 + 8 * i, 0x1000 + order[i]);
    Registers regs = registers({{RSP, kSp}, {RIP, kPc.value}});
    const Step step = step_by_signal_trampoline(x86_64(), memory.memory(), regs);
    ASSERT_EQ(step.outcome, Step::Outcome::kFrame);
    EXPECT_TRUE(step.signal_frame);
    for (const testing::Reg reg : order)
        EXPECT_EQ(regs[reg], 0x1000u + reg);

    regs = registers({{RSP, kSp}, {RIP, kPc.value}});
    const Step cut = step_by_signal_trampoline(x86_64(), memory.memory(128 + 168), regs);
    EXPECT_EQ(cut.status, DWUNW_ERR_SLICE_EXHAUSTED);
}

} // namespace
} // namespace dwunw::unwind
