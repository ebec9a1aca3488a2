// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Walks where no CFI covers the pc: signal trampolines, clone, entry points and ends of fibers, and frame pointers.
#include "support/walk_fixture.h"
#include "support/watched_source.h"

namespace dwunw::unwind {
namespace {

using namespace dwarf;
using namespace testing;

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
TEST_F(WalkTest, ATrampolinesCodeInsideAFunctionIsNotATrampoline) {
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

TEST(CodeLocation, TheEntryPointIsAFewInstructions) {
    CodeLocation location;
    location.kind = CodeKind::kModule;
    location.bias = LoadBias{0x100000};
    location.entry = LinkAddr(0x1000);
    EXPECT_TRUE(location.is_entry_point(RunAddr(0x101000)));
    EXPECT_TRUE(location.is_entry_point(RunAddr(0x101021)));
    EXPECT_FALSE(location.is_entry_point(RunAddr(0x100fff)));
    EXPECT_FALSE(location.is_entry_point(RunAddr(0x101040)));
    // A library has none, nor has memory that is not a module.
    location.entry = LinkAddr(0);
    EXPECT_FALSE(location.is_entry_point(RunAddr(0x100000)));
    location.entry = LinkAddr(0x1000);
    location.kind = CodeKind::kUnusableModule;
    EXPECT_FALSE(location.is_entry_point(RunAddr(0x101000)));
}

// As Deno and Bun ship: frame pointers, and no CFI at all in the file.
TEST_F(WalkTest, TheEntryPointOfAFileWithoutCfi) {
    constexpr uint64_t kProgram = 0x30000;
    space_.add_module_without_cfi(kProgram, 0x1000, 0x100);
    const auto status = [&](uint64_t offset, uint64_t fp) {
        stack_.set(kSp, kProgram + offset);
        return walk_from(at(kLeaf), fp);
    };
    EXPECT_EQ(status(0x121, 0), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), kProgram + 0x121}));
    EXPECT_EQ(walk_from(kProgram + 0x100, 0), DWUNW_OK);
    EXPECT_EQ(result_.written, 1u);
    // Another function's frame, or a frame pointer that is something, is no root.
    EXPECT_EQ(status(0x121, 8), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(status(0x100, 0), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(status(0x141, 0), DWUNW_ERR_NO_CFI);
}

// A function that makecontext started returns to code that nothing called, and whose rows do not hold.
TEST_F(WalkTest, AFibersEndIsARoot) {
    space_.set_code(at(kContext), {0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff, 0x74, 0x08});
    stack_.set(kSp, at(kContext)).set(kSp + 8, 0x1234);
    EXPECT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kContext)}));
    EXPECT_EQ(frames_[1].flags & DWUNW_FRAME_FLAG_EXACT_PC, DWUNW_FRAME_FLAG_EXACT_PC);
    // Not with a call before it, nor with other code, nor inside of it.
    space_.set_code(at(kContext) - 5, {0xe8, 0, 0, 0, 0});
    EXPECT_NE(walk_from(at(kLeaf)), DWUNW_OK);
    space_.set_code(at(kContext) - 5, {0x90, 0x90, 0x90, 0x90, 0x90});
    EXPECT_EQ(walk_from(at(kLeaf)), DWUNW_OK);
    space_.set_code(at(kContext), {0x48, 0x89, 0xdd});
    EXPECT_NE(walk_from(at(kLeaf)), DWUNW_OK);
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
        stack_.set(kSp, at(signal))
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
    // No call led there.
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

TEST_F(WalkTest, NoFramePointerStepToAnUncalledAddress) {
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

} // namespace
} // namespace dwunw::unwind
