// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Whole walks over hand-written modules and stacks, each stop reason, and slices cut at every byte. Each walk runs cold
// and warm, from single FDEs and from tables (support/walk_fixture.h). The other unwind_walk_… tests have the walks
// that leave the rules.
#include "support/walk_fixture.h"

namespace dwunw::unwind {
namespace {

using namespace dwarf;
using namespace testing;

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
TEST_F(WalkTest, ALandingPadIsNotAReturnAddress) {
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
        EXPECT_FALSE(result.used_interpreter); // frame 0's registers are all known
        EXPECT_EQ(walk_with(registers({{RIP, kModule + 0x110}, {RSP, kSp}})).status, DWUNW_ERR_REGISTER_UNKNOWN);
    }
}

TEST_F(WalkTest, AnUnknownRegisterIsNeverGuessed) {
    stack_.set(kSp, at(kByRbx, 0x10)).set(kSp + 152, at(kRoot, 0x10));
    const Registers without_rbx = registers({{RIP, at(kLeaf)}, {RSP, kSp}});
    EXPECT_EQ(walk_from(without_rbx, stack_.memory()), DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(result_.written, 2u);
}

TEST_F(WalkTest, PendingUretprobesGiveTheOriginalAddresses) {
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

TEST_F(WalkTest, EachStopHasItsReason) {
    EXPECT_EQ(walk_from(0x999), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(result_.written, 1u);
    EXPECT_EQ(frames_[0].module, nullptr);
    EXPECT_EQ(walk_from(at(kBad)), DWUNW_ERR_CFI_MALFORMED);
    EXPECT_EQ(result_.written, 1u);
    EXPECT_EQ(walk_from(at(kNoCfi, 0x20)), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(walk_from(kUnusable + 0x10), DWUNW_ERR_MODULE_CHANGED);

    stack_.set(kSp, 0x999); // a return address in nothing
    EXPECT_EQ(walk_from(at(kLeaf)), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(result_.written, 1u);
    space_.add_other(CodeKind::kUnmapped, 0x7fe000, 0x8000, DWUNW_ERR_NOT_EXECUTABLE);
    stack_.set(kSp, kSp); // in the stack, which is not executable
    EXPECT_EQ(walk_from(at(kLeaf)), DWUNW_ERR_NOT_EXECUTABLE);
    EXPECT_EQ(walk_from(kSp), DWUNW_ERR_NOT_EXECUTABLE);

    // A frame that is its own caller: *(rsp) says where the CFA is, and the word below it who called.
    stack_.set(kSp, kSp).set(kSp - 8, at(kStuck, 0x10));
    EXPECT_EQ(walk_from(at(kStuck, 0x10)), DWUNW_ERR_NO_PROGRESS);
    EXPECT_LE(result_.written, 3u);
}

TEST_F(WalkTest, RoomForFramesIsALimit) {
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
