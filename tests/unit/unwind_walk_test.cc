// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Whole walks over hand-written modules and stacks, each stop reason, and slices cut at every byte. Each walk is done
// cold, from single FDEs and from tables, and warm, and has to be the same every time.
#include "unwind/walk.h"

#include "support/fake_space.h"
#include "support/watched_source.h"

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

constexpr uint64_t kModule = 0x400000;
constexpr uint64_t kJit = 0x10000;
constexpr uint64_t kUprobes = 0x7fffffffe000;
constexpr uint64_t kStack = 0x7ff000;
constexpr uint64_t kSp = kStack + 128;

// Functions of the module, by link address, and the code of those that have none.
enum Function : uint64_t {
    kLeaf = 0x1000,     // CFA = rsp+8
    kMiddle = 0x1100,   // CFA = rsp+32, rbp saved at CFA−16
    kByRbp = 0x1200,    // CFA = rbp+16, rbp saved at CFA−16
    kByRbx = 0x1300,    // CFA = rbx+0: the interpreter's
    kSavesRbx = 0x1400, // CFA = rsp+24, rbx saved at CFA−16
    kRoot = 0x1500,     // the return address is undefined
    kSignal = 0x1600,   // a trampoline with the usual CFI
    kBad = 0x1700,      // cannot be executed
    kStuck = 0x1800,    // CFA = rsp+8 in memory: *(rsp)
    kNoCfi = 0x1900,    // none covers it
    kMusl = 0x1a00,     // neither, and the code of a signal trampoline
    kStart = 0x1b00,    // neither, and the entry point
    kClone = 0x1c00,    // neither, and glibc's code from the system call on
    kSplit = 0x1d00,    // two rows with one rule, and the code of a signal trampoline where the second begins
    kAbove = 0x1e00,    // CFA = rsp+8, rbp saved at rsp+64, rbx at rsp+72
    kSpAbove = 0x1f00,  // CFA = rsp+8, rsp saved at rsp+64
    kChild = 0x1c10,    // where that goes in the child: the return address is undefined
};

class WalkTest : public ::testing::Test {
  protected:
    WalkTest() {
        FrameSection section;
        const size_t cie = section.cie();
        section.fde(cie, kLeaf, 0x100);
        section.fde(cie, kMiddle, 0x100, Bytes().def_cfa_offset(32).offset(RBP, 2));
        section.fde(cie, kByRbp, 0x100, Bytes().def_cfa(RBP, 16).offset(RBP, 2));
        section.fde(cie, kByRbx, 0x100, Bytes().def_cfa(RBX, 0));
        section.fde(cie, kSavesRbx, 0x100, Bytes().def_cfa_offset(24).offset(RBX, 2));
        section.fde(cie, kRoot, 0x100, Bytes({DW_CFA_undefined, RIP}));
        section.fde(cie, kChild, 0x10, Bytes({DW_CFA_undefined, RIP}));
        section.fde(cie, kSplit, 0x100, Bytes().advance(0x20).def_cfa_offset(8));
        section.fde(cie, kAbove, 0x100,
                    Bytes({DW_CFA_expression, RBP, 3, DW_OP_breg0 + 7, 0xc0, 0})
                        .add({DW_CFA_expression, RBX, 3, DW_OP_breg0 + 7, 0xc8, 0}));
        section.fde(cie, kSpAbove, 0x100, Bytes({DW_CFA_expression, RSP, 3, DW_OP_breg0 + 7, 0xc0, 0}));
        section.fde(cie, kBad, 0x100, Bytes({0x3f}));
        section.fde(cie, kStuck, 0x100, Bytes({DW_CFA_def_cfa_expression, 3, DW_OP_breg0 + 7, 0, DW_OP_deref}));
        const size_t signal_cie = section.cie(testing::usual_cie_instructions(), "zRS");
        section.fde(signal_cie, kSignal - 1, 0x101, // as glibc does: a handler returns to the first byte
                    Bytes({DW_CFA_def_cfa_expression, 4, DW_OP_breg0 + 7, 0xa0, 1, DW_OP_deref})
                        .add({DW_CFA_expression, RIP, 3, DW_OP_breg0 + 7, 0xa8, 1})
                        .add({DW_CFA_expression, RBP, 3, DW_OP_breg0 + 7, 0xf8, 0})
                        .add({DW_CFA_expression, RSP, 3, DW_OP_breg0 + 7, 0xa0, 1}));
        space_.add_module(kModule, 0x3000, section, kStart);
        space_.add_other(CodeKind::kAnonymous, kJit, 0x1000);
        space_.add_other(CodeKind::kUprobeTrampoline, kUprobes, 0x1000);
        space_.add_other(CodeKind::kUnusableModule, 0x20000, 0x1000, DWUNW_ERR_MODULE_CHANGED);
        space_.set_code(at(kSplit, 0x20), {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05});
        space_.set_code(at(kMusl), {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05});
        // syscall; test %rax, %rax; jl kClone + 0x30; je kChild; ret
        space_.set_code(at(kClone), {0x0f, 0x05, 0x48, 0x85, 0xc0, 0x7c, 0x29, 0x74, 0x07, 0xc3});
        for (const uint64_t pc : {kJit + 0x100, kJit + 0x200, at(kMiddle, 0x20), at(kRoot, 0x20), kModule + 0x1920})
            space_.set_code(pc - 5, {0xe8, 0, 0, 0, 0});
        // Functions with a frame pointer: push %rbp; mov %rsp, %rbp; nop…; a call; leave; ret.
        space_.set_code(kJit + 0x10, {0xc9, 0xc3});
        for (const uint64_t pc : {kJit + 0x200, kModule + 0x1920}) {
            space_.set_code(pc - 12, {0x55, 0x48, 0x89, 0xe5, 0x90, 0x90, 0x90});
            space_.set_code(pc, {0xc9, 0xc3});
        }
        space_.set_code(at(kNoCfi), {0xc9, 0xc3});
    }

    static uint64_t at(uint64_t function, uint64_t offset = 0) { return kModule + function + offset; }

    dwunw_status walk_from(const Registers &regs, const StackMemory &memory) {
        const WalkRequest request{space_, x86_64(), regs, memory, pending_, std::span(frames_).first(room_), cfi_only_};
        space_.rules = nullptr;
        result_ = walk(request);
        const WalkResult cold = result_;
        const auto cold_frames = frames_;
        const auto again = [&](const char *how) {
            SCOPED_TRACE(how);
            frames_.fill({});
            result_ = walk(request);
            EXPECT_EQ(result_.status, cold.status);
            EXPECT_EQ(result_.written, cold.written);
            EXPECT_EQ(result_.frame_pointer_frames, cold.frame_pointer_frames);
            EXPECT_EQ(result_.trampoline_frames, cold.trampoline_frames);
            EXPECT_EQ(result_.used_interpreter, cold.used_interpreter);
            EXPECT_EQ(0, std::memcmp(frames_.data(), cold_frames.data(), cold.written * sizeof(frames_[0])));
        };
        space_.rules = std::make_unique<RuleCache>();
        again("remembering");
        again("warm");
        space_.stale = true;
        again("places to be looked at again");
        space_.stale = false;
        space_.compile();
        ++space_.generation;
        again("from tables");
        again("warm from tables");
        return result_.status;
    }
    dwunw_status walk_from(uint64_t pc, uint64_t fp = 0) {
        return walk_from(registers({{RIP, pc}, {RSP, kSp}, {RBP, fp}, {RBX, 0}}), stack_.memory());
    }
    std::vector<uint64_t> pcs() const {
        std::vector<uint64_t> result;
        for (size_t i = 0; i < result_.written; ++i)
            result.push_back(frames_[i].pc);
        return result;
    }

    FakeSpace space_;
    FakeStack stack_{kStack, 256};
    std::vector<dwunw_pending_return> pending_;
    std::array<dwunw_frame, 64> frames_{};
    size_t room_ = 64;
    bool cfi_only_ = false;
    WalkResult result_;
};

using Pcs = std::vector<uint64_t>;

// leaf → middle → by_rbp → root
void lay_down_four(FakeStack &stack) {
    stack
        .set(kSp, kModule + kMiddle + 0x20)         // leaf's return address; middle's SP is kSp + 8
        .set(kSp + 8 + 16, kSp + 80)                // rbp of by_rbp
        .set(kSp + 8 + 24, kModule + kByRbp + 0x30) // its return address; by_rbp's SP is kSp + 40
        .set(kSp + 80, 0)
        .set(kSp + 88, kModule + kRoot + 0x40);
}

TEST_F(WalkTest, DownToAnUndefinedReturnAddress) {
    lay_down_four(stack_);
    ASSERT_EQ(walk_from(at(kLeaf, 4)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf, 4), at(kMiddle, 0x20), at(kByRbp, 0x30), at(kRoot, 0x40)}));
    EXPECT_EQ(frames_[0].source, DWUNW_SOURCE_REGISTERS);
    EXPECT_EQ(frames_[0].flags, DWUNW_FRAME_FLAG_EXACT_PC);
    EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_CFI);
    EXPECT_EQ(frames_[1].flags, 0u);
    EXPECT_EQ(frames_[0].cfa, kSp + 8);
    EXPECT_EQ(frames_[1].sp, kSp + 8);
    EXPECT_EQ(frames_[1].cfa, kSp + 40);
    EXPECT_EQ(frames_[2].cfa, kSp + 96);
    EXPECT_EQ(frames_[3].sp, kSp + 96);
    EXPECT_EQ(frames_[3].cfa, 0u);
    EXPECT_EQ(frames_[1].module_offset, kMiddle + 0x20u);
    EXPECT_NE(frames_[1].module, nullptr);
    EXPECT_FALSE(result_.used_interpreter);
}

TEST_F(WalkTest, AZeroReturnAddressIsTheRoot) {
    stack_.set(kSp, 0);
    ASSERT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(result_.written, 1u);
}

TEST_F(WalkTest, ACallAtAFunctionsEndIsLookedUpInside) {
    // The return address is the next function's first byte; its rules would be wrong.
    space_.set_code(at(kMiddle) - 5, {0xe8, 0, 0, 0, 0});
    stack_.set(kSp, at(kMiddle)).set(kSp + 8, 0); // the call is leaf's last instruction: leaf called leaf
    ASSERT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMiddle)}));
    EXPECT_EQ(frames_[1].cfa, kSp + 16); // by leaf's rule
}

// What libgcc puts over a return address, to go on at a catch: the byte before it may be a ret, whose rules are others.
TEST_F(WalkTest, ALandingPadIsNoReturnAddress) {
    stack_.set(kSp, at(kMiddle)).set(kSp + 8 + 24, at(kRoot, 8));
    ASSERT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMiddle), at(kRoot, 8)}));
    EXPECT_EQ(frames_[1].flags, DWUNW_FRAME_FLAG_EXACT_PC);
    EXPECT_EQ(frames_[1].cfa, kSp + 8 + 32); // by middle's rule
}

TEST_F(WalkTest, AnotherRegisterStartsAgainWithTheInterpreter) {
    // leaf → saves_rbx → by_rbx → root: by_rbx's CFA needs the rbx that saves_rbx saved.
    stack_.set(kSp, at(kSavesRbx, 0x10))
        .set(kSp + 8 + 8, kSp + 160)
        .set(kSp + 8 + 16, at(kByRbx, 0x10))
        .set(kSp + 152, at(kRoot, 0x10));
    ASSERT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kSavesRbx, 0x10), at(kByRbx, 0x10), at(kRoot, 0x10)}));
    EXPECT_TRUE(result_.used_interpreter);
    EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_INTERPRETER);
    EXPECT_EQ(frames_[3].sp, kSp + 160);
}

// The registers that compilers and hand-written code base a CFA on: realigned stacks (r10, r13), trampolines of the
// dynamic linker (rbx), stack probes (r11, rax), generated code (rsi, rdi, r12).
TEST_F(WalkTest, ACfaFromAnyRegister) {
    for (const testing::Reg reg : {RAX, RDX, RCX, RBX, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15}) {
        SCOPED_TRACE(reg);
        FrameSection section;
        const size_t cie = section.cie();
        section.fde(cie, 0x100, 0x100, Bytes().def_cfa(reg, 24).offset(RBP, 2));
        section.fde(cie, 0x200, 0x100, Bytes({DW_CFA_undefined, RIP}));
        FakeSpace space;
        space.add_module(kModule, 0x1000, section);
        FakeStack stack(kStack, 256);
        stack.set(kSp + 400 + 16, kModule + 0x210);
        std::array<dwunw_frame, 8> frames{};
        const auto walk_with = [&](const Registers &regs) {
            const StackMemory memory = stack.memory();
            return walk({space, x86_64(), regs, memory, {}, frames});
        };
        const WalkResult result = walk_with(registers({{RIP, kModule + 0x110}, {RSP, kSp}, {reg, kSp + 400}}));
        EXPECT_EQ(result.status, DWUNW_OK);
        ASSERT_EQ(result.written, 2u);
        EXPECT_EQ(frames[1].pc, kModule + 0x210);
        EXPECT_EQ(frames[1].sp, kSp + 424);
        EXPECT_TRUE(result.used_interpreter);
        EXPECT_EQ(walk_with(registers({{RIP, kModule + 0x110}, {RSP, kSp}})).status, DWUNW_ERR_REGISTER_UNKNOWN);
    }
}

TEST_F(WalkTest, AnUnknownRegisterIsNeverGuessed) {
    stack_.set(kSp, at(kByRbx, 0x10)).set(kSp + 152, at(kRoot, 0x10));
    const Registers without_rbx = registers({{RIP, at(kLeaf)}, {RSP, kSp}});
    EXPECT_EQ(walk_from(without_rbx, stack_.memory()), DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(result_.written, 2u);
}

TEST_F(WalkTest, ThroughASignal) {
    // leaf, a handler → the trampoline → middle, interrupted at its first instruction → root
    const uint64_t frame = kSp + 8;
    stack_.set(kSp, at(kSignal))
        .set(frame + 120, 0)           // rbp
        .set(frame + 160, kSp + 400)   // rsp
        .set(frame + 168, at(kMiddle)) // rip
        .set(kSp + 400 + 24, at(kRoot, 8));
    ASSERT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(result_.written, 4u);
    EXPECT_EQ(frames_[2].pc, at(kMiddle));
    EXPECT_EQ(frames_[2].source, DWUNW_SOURCE_SIGNAL);
    EXPECT_TRUE(frames_[1].flags & DWUNW_FRAME_FLAG_SIGNAL);
    EXPECT_TRUE(frames_[2].flags & DWUNW_FRAME_FLAG_EXACT_PC);
    EXPECT_EQ(frames_[2].cfa, kSp + 400 + 32); // looked up at the interrupted instruction, not before it
    EXPECT_EQ(frames_[3].pc, at(kRoot, 8));
}

TEST_F(WalkTest, ThroughASignalWithoutCfi) {
    const uint64_t frame = kSp + 8;
    stack_.set(kSp, at(kMusl))
        .set(frame + 160, kSp + 400)
        .set(frame + 168, at(kMiddle, 4))
        .set(kSp + 400 + 24, at(kRoot, 8));
    ASSERT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMusl), at(kMiddle, 4), at(kRoot, 8)}));
    EXPECT_EQ(frames_[2].source, DWUNW_SOURCE_SIGNAL);
}

// The thread was stopped in the trampoline, before its system call.
TEST_F(WalkTest, InsideASignalTrampolineWithoutCfi) {
    stack_.set(kSp + 160, kSp + 400).set(kSp + 168, at(kMiddle, 4)).set(kSp + 400 + 24, at(kRoot, 8));
    for (const uint64_t offset : {0, 7}) {
        ASSERT_EQ(walk_from(at(kMusl, offset)), DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kMusl, offset), at(kMiddle, 4), at(kRoot, 8)}));
        EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_SIGNAL);
    }
}

// A table joins the rows and an FDE does not: whether CFI ends at the code decides, not whether a row does.
TEST_F(WalkTest, ATrampolinesCodeInsideAFunctionIsNone) {
    stack_.set(kSp, at(kSplit, 0x20)).set(kSp + 8, at(kRoot, 8));
    ASSERT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kSplit, 0x20), at(kRoot, 8)}));
}

TEST_F(WalkTest, TheEntryPointWithoutCfi) {
    stack_.set(kSp, at(kStart, 0x21));
    EXPECT_EQ(walk_from(at(kLeaf), 0), DWUNW_OK);
    EXPECT_EQ(result_.written, 2u);
    // Only with rbp zero, as the psABI has it at a process's entry.
    EXPECT_EQ(walk_from(at(kLeaf), 8), DWUNW_ERR_NO_CFI);
}

// eu-stack takes a word of the child's new stack for its caller.
TEST_F(WalkTest, AThreadJustBornByCloneIsARoot) {
    stack_.set(kSp, at(kMiddle, 0x20)).set(kSp + 32, at(kRoot, 8));
    for (const uint64_t offset : {2, 5, 7}) {
        EXPECT_EQ(walk_from(registers({{RIP, at(kClone, offset)}, {RSP, kSp}, {RAX, 0}}), stack_.memory()), DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kClone, offset)}));
    }
}

TEST_F(WalkTest, TheParentComesBackFromClone) {
    stack_.set(kSp, at(kMiddle, 0x20)).set(kSp + 32, at(kRoot, 8));
    for (const uint64_t offset : {2, 5, 7, 9}) {
        ASSERT_EQ(walk_from(registers({{RIP, at(kClone, offset)}, {RSP, kSp}, {RAX, 4711}}), stack_.memory()),
                  DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kClone, offset), at(kMiddle, 0x20), at(kRoot, 8)}));
        EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_CODE);
        EXPECT_EQ(frames_[0].cfa, kSp + 8);
    }
    // Where the result is not known, neither is the way; nor in a frame that has called.
    EXPECT_EQ(walk_from(registers({{RIP, at(kClone, 2)}, {RSP, kSp}}), stack_.memory()), DWUNW_ERR_NO_CFI);
    stack_.set(kSp, at(kClone, 2));
    EXPECT_EQ(walk_from(registers({{RIP, at(kLeaf)}, {RSP, kSp}, {RAX, 4711}}), stack_.memory()), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(walk_from(registers({{RIP, at(kClone, 9)}, {RSP, kStack + stack_.bytes()}}), stack_.memory()),
              DWUNW_ERR_SLICE_EXHAUSTED);
}

// The result that counts is the interrupted frame's, not the handler's.
TEST_F(WalkTest, ASignalBetweenCloneAndItsBranch) {
    const uint64_t frame = kSp + 8;
    for (const uint64_t signal : {kSignal, kMusl}) {
        stack_.set(kSp, at(Function(signal)))
            .set(frame + 144, 0)
            .set(frame + 160, kSp + 400)
            .set(frame + 168, at(kClone, 2))
            .set(kSp + 400, at(kRoot, 8));
        const auto handler = registers({{RIP, at(kLeaf)}, {RSP, kSp}, {RAX, 4711}});
        if (signal == kMusl) {
            ASSERT_EQ(walk_from(handler, stack_.memory()), DWUNW_OK);
            EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMusl), at(kClone, 2)}));
        } else {
            // This trampoline's CFI does not say where rax is.
            EXPECT_EQ(walk_from(handler, stack_.memory()), DWUNW_ERR_NO_CFI);
        }
    }
}

TEST_F(WalkTest, JitCodeByItsFramePointer) {
    stack_.set(kSp + 32, kSp + 64).set(kSp + 40, kJit + 0x200).set(kSp + 64, 0).set(kSp + 72, at(kRoot, 0x20));
    ASSERT_EQ(walk_from(kJit + 0x10, kSp + 32), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{kJit + 0x10, kJit + 0x200, at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_FRAME_POINTER);
    EXPECT_EQ(frames_[1].module, nullptr);
    EXPECT_EQ(frames_[2].source, DWUNW_SOURCE_FRAME_POINTER);
    EXPECT_EQ(result_.frame_pointer_frames, 2u);

    cfi_only_ = true;
    EXPECT_EQ(walk_from(kJit + 0x10, kSp + 32), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(result_.written, 1u);
}

// .fini and crtstuff's functions, setjmp in musl: FP is still their caller's, which a step by it would leave out.
TEST_F(WalkTest, NoFramePointerStepBeforeTheFunctionsOwnReturnAddress) {
    stack_.set(kSp + 32, kSp + 64).set(kSp + 40, kJit + 0x200);
    space_.set_code(kJit + 0x30, {0x48, 0x83, 0xc4, 0x18, 0xc3}); // add $24, %rsp; ret
    stack_.set(kSp + 24, at(kMiddle, 0x20));
    walk_from(kJit + 0x30, kSp + 32);
    ASSERT_GT(result_.written, 1u);
    EXPECT_EQ(frames_[1].pc, at(kMiddle, 0x20));
    EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_CODE);
    EXPECT_EQ(frames_[0].cfa, kSp + 32);
    // Nobody called there.
    stack_.set(kSp + 24, at(kMiddle, 0x21));
    EXPECT_EQ(walk_from(kJit + 0x30, kSp + 32), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(result_.written, 1u);
    // Code that does not say how it ends: a trap.
    stack_.set(kSp + 24, 0);
    EXPECT_EQ(walk_from(kJit + 0x40, kSp + 32), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(result_.written, 1u);
}

// Warm, such a step reads no code: what the code says of the one pc, and that the other has a call before it, is
// remembered.
TEST_F(WalkTest, AFileWithoutCfiByItsFramePointer) {
    stack_.set(kSp + 32, kSp + 64).set(kSp + 40, kModule + 0x1920).set(kSp + 64, 0).set(kSp + 72, at(kRoot, 0x20));
    ASSERT_EQ(walk_from(at(kNoCfi), kSp + 32), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kNoCfi), kModule + 0x1920, at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_FRAME_POINTER);
    EXPECT_EQ(frames_[2].source, DWUNW_SOURCE_FRAME_POINTER);
    const Registers regs = registers({{RIP, at(kNoCfi)}, {RSP, kSp}, {RBP, kSp + 32}});
    const StackMemory memory = stack_.memory();
    const WalkRequest request{space_, x86_64(), regs, memory, {}, frames_, false};
    space_.finds = 0;
    EXPECT_EQ(walk(request).frame_pointer_frames, 2u);
    EXPECT_EQ(space_.finds, 0u);

    // The same pcs, and a frame pointer that is none.
    for (const uint64_t fp : {kSp + 31, kSp - 8, uint64_t{0}})
        EXPECT_EQ(walk_from(at(kNoCfi), fp), DWUNW_ERR_NO_CFI) << fp;
    cfi_only_ = true;
    EXPECT_EQ(walk_from(at(kNoCfi), kSp + 32), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(result_.written, 1u);
}

// leave; ret behind the call, and no prologue that leads there: FP is the function's own if nothing between SP and FP
// is another's return address.
TEST_F(WalkTest, AFramePointerWithoutAPrologueOnlyIfNoReturnAddressLiesBelowIt) {
    const uint64_t pc = kModule + 0x1980;
    space_.set_code(pc - 5, {0xe8, 0, 0, 0, 0});
    space_.set_code(pc, {0xc9, 0xc3});
    stack_.set(kSp, pc).set(kSp + 40, kSp + 64).set(kSp + 48, at(kRoot, 0x20));
    ASSERT_EQ(walk_from(at(kLeaf), kSp + 40), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), pc, at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[2].source, DWUNW_SOURCE_FRAME_POINTER);
    // With and without the memory of the walk before, which had another stack.
    const Registers regs = registers({{RIP, at(kLeaf)}, {RSP, kSp}, {RBP, kSp + 40}});
    const StackMemory memory = stack_.memory();
    const WalkRequest request{space_, x86_64(), regs, memory, {}, frames_, false};
    space_.rules = std::make_unique<RuleCache>();
    EXPECT_EQ(walk(request).status, DWUNW_OK);
    EXPECT_EQ(walk(request).status, DWUNW_OK);
    stack_.set(kSp + 24, at(kMiddle, 0x20));
    const StackMemory other = stack_.memory();
    const WalkRequest again{space_, x86_64(), regs, other, {}, frames_, false};
    EXPECT_EQ(walk(again).status, DWUNW_ERR_NO_CFI);
    EXPECT_EQ(walk(again).written, 2u);
    EXPECT_EQ(walk_from(at(kLeaf), kSp + 40), DWUNW_ERR_NO_CFI);
}

TEST_F(WalkTest, NoFramePointerStepIntoWhatNobodyCalled) {
    stack_.set(kSp + 32, kSp + 64).set(kSp + 40, kJit + 0x300);
    EXPECT_EQ(walk_from(kJit + 0x10, kSp + 32), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(result_.written, 1u);
}

// A frame pointer is for where there are no rules, and not for where they cannot be read.
TEST_F(WalkTest, NoFramePointerStepWhereTheFileChanged) {
    constexpr uint64_t kOther = 0x40000;
    auto source = std::make_shared<testing::WatchedSource>(std::vector<uint8_t>(0x100));
    unwind::CfiInput input;
    input.eh_frame.emplace(source, FileOffset(0), source->size(), LinkAddr(0x100000));
    input.machine = EM_X86_64;
    space_.add_module(kOther, 0x1000, std::move(input));
    stack_.set(kSp + 32, kSp + 64).set(kSp + 40, at(kRoot, 0x20));
    const Registers regs = registers({{RIP, kOther + 0x20}, {RSP, kSp}, {RBP, kSp + 32}});
    const StackMemory memory = stack_.memory();
    source->changed = true;
    EXPECT_EQ(walk({space_, x86_64(), regs, memory, {}, frames_, false}).status, DWUNW_ERR_MODULE_CHANGED);
    source->changed = false;
    source->cut = 0x80;
    EXPECT_EQ(walk({space_, x86_64(), regs, memory, {}, frames_, false}).written, 1u);
}

TEST_F(WalkTest, PendingUretprobes) {
    // Both of middle's and by_rbp's return addresses were replaced.
    lay_down_four(stack_);
    stack_.set(kSp + 32, kUprobes).set(kSp + 88, kUprobes);
    EXPECT_EQ(walk_from(at(kLeaf, 4)), DWUNW_ERR_UPROBE_TRAMPOLINE);
    EXPECT_EQ(result_.written, 2u);

    pending_ = {{kSp + 32, at(kByRbp, 0x30)}, {kSp + 88, at(kRoot, 0x40)}};
    ASSERT_EQ(walk_from(at(kLeaf, 4)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf, 4), at(kMiddle, 0x20), at(kByRbp, 0x30), at(kRoot, 0x40)}));
    EXPECT_EQ(frames_[2].source, DWUNW_SOURCE_TRAMPOLINE);
    EXPECT_EQ(result_.trampoline_frames, 2u);

    // One of another slot is no help: it would be a wrong frame.
    pending_ = {{kSp + 24, at(kByRbp, 0x30)}};
    EXPECT_EQ(walk_from(at(kLeaf, 4)), DWUNW_ERR_UPROBE_TRAMPOLINE);
}

TEST_F(WalkTest, StopReasons) {
    EXPECT_EQ(walk_from(0x999), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(result_.written, 1u);
    EXPECT_EQ(frames_[0].module, nullptr);
    EXPECT_EQ(walk_from(at(kBad)), DWUNW_ERR_CFI_MALFORMED);
    EXPECT_EQ(result_.written, 1u);
    EXPECT_EQ(walk_from(at(kNoCfi, 0x20)), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(walk_from(0x20010), DWUNW_ERR_MODULE_CHANGED);

    stack_.set(kSp, 0x999); // a return address in nothing
    EXPECT_EQ(walk_from(at(kLeaf)), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(result_.written, 1u);
    stack_.set(kSp, kSp); // in the stack, which is not executable
    EXPECT_EQ(walk_from(at(kLeaf)), DWUNW_ERR_NO_MAPPING);

    // A frame that is its own caller: *(rsp) says where the CFA is, and the word below it who called.
    stack_.set(kSp, kSp).set(kSp - 8, at(kStuck, 0x10));
    EXPECT_EQ(walk_from(at(kStuck, 0x10)), DWUNW_ERR_NO_PROGRESS);
    EXPECT_LE(result_.written, 3u);
}

TEST_F(WalkTest, FrameLimit) {
    lay_down_four(stack_);
    for (room_ = 1; room_ < 4; ++room_) {
        EXPECT_EQ(walk_from(at(kLeaf, 4)), DWUNW_ERR_FRAME_LIMIT);
        EXPECT_EQ(result_.written, room_);
    }
    EXPECT_EQ(walk_from(at(kLeaf, 4)), DWUNW_OK);
}

TEST_F(WalkTest, LoopsEndAtTheFrameLimit) {
    // Two frames that call each other: rbp chains in a ring.
    stack_.set(kSp + 32, kSp + 64).set(kSp + 40, at(kByRbp, 1)).set(kSp + 64, kSp + 32).set(kSp + 72, at(kByRbp, 2));
    EXPECT_EQ(walk_from(at(kByRbp), kSp + 32), DWUNW_ERR_FRAME_LIMIT);
    EXPECT_EQ(result_.written, frames_.size());
}

TEST_F(WalkTest, SlicesCutAnywhere) {
    lay_down_four(stack_);
    const Registers regs = registers({{RIP, at(kLeaf, 4)}, {RSP, kSp}, {RBP, 0}});
    ASSERT_EQ(walk_from(regs, stack_.memory()), DWUNW_OK);
    const Pcs whole = pcs();
    size_t longest = 0;
    for (size_t size = 0; size <= stack_.bytes(); ++size) {
        const dwunw_status status = walk_from(regs, stack_.memory(size));
        const Pcs cut = pcs();
        ASSERT_LE(cut.size(), whole.size()) << size;
        ASSERT_TRUE(std::equal(cut.begin(), cut.end(), whole.begin())) << size;
        ASSERT_EQ(status, cut.size() == whole.size() ? DWUNW_OK : DWUNW_ERR_SLICE_EXHAUSTED) << size;
        ASSERT_GE(cut.size(), longest) << size;
        longest = cut.size();
    }
    EXPECT_EQ(longest, whole.size());
}

// Found by fuzzing: it was "register value unknown", or "no call-frame information" where a frame pointer step was to
// be.
TEST_F(WalkTest, ARegisterBeyondTheSliceIsWhyTheWalkEnds) {
    stack_.set(kSp + 64, kSp + 16).set(kSp + 72, kSp + 40).set(kSp + 16, 0).set(kSp + 24, at(kRoot, 0x20));
    stack_.set(kSp + 32, at(kRoot, 0x20));
    const size_t cut = kSp + 64 - kStack;
    const Registers leaf = registers({{RIP, at(kAbove)}, {RSP, kSp}, {RBP, 0}, {RBX, 0}});
    for (const uint64_t outer : {at(kByRbp, 0x20), at(kByRbx, 0x20), kModule + 0x1920}) {
        stack_.set(kSp, outer);
        ASSERT_EQ(walk_from(leaf, stack_.memory()), DWUNW_OK) << outer;
        EXPECT_EQ(pcs(), Pcs({at(kAbove), outer, at(kRoot, 0x20)}));
        EXPECT_EQ(walk_from(leaf, stack_.memory(cut)), DWUNW_ERR_SLICE_EXHAUSTED) << outer;
        EXPECT_EQ(pcs(), Pcs({at(kAbove), outer}));
    }
    const Registers moved = registers({{RIP, at(kSpAbove)}, {RSP, kSp}, {RBP, 0}, {RBX, 0}});
    stack_.set(kSp, at(kRoot, 0x20));
    EXPECT_EQ(walk_from(moved, stack_.memory()), DWUNW_OK);
    EXPECT_EQ(walk_from(moved, stack_.memory(cut)), DWUNW_ERR_SLICE_EXHAUSTED);
}

TEST_F(WalkTest, AReaderGoesOnWhereTheSliceEnds) {
    lay_down_four(stack_);
    const Registers regs = registers({{RIP, at(kLeaf, 4)}, {RSP, kSp}, {RBP, 0}});
    StackMemory memory = stack_.memory(0);
    memory.add_reader({.read = [](void *arg, uint64_t address, void *buffer, size_t length) -> size_t {
                           auto value = static_cast<FakeStack *>(arg)->memory().read(RunAddr(address), length);
                           if (!value)
                               return 0;
                           std::memcpy(buffer, &*value, length);
                           return length;
                       },
                       .arg = &stack_});
    EXPECT_EQ(walk_from(regs, memory), DWUNW_OK);
    EXPECT_EQ(result_.written, 4u);

    StackMemory nothing = stack_.memory(0);
    nothing.add_reader({.read = [](void *, uint64_t, void *, size_t) -> size_t { return 0; }});
    EXPECT_EQ(walk_from(regs, nothing), DWUNW_ERR_MEMORY_UNREADABLE);
}

} // namespace
} // namespace dwunw::unwind
