// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests whole walks over hand-written modules and stacks, each stop reason, and slices cut at every byte. Each walk
// runs cold, from single FDEs and from tables, and warm, and must give the same result each time.
#include "unwind/walk.h"

#include "support/fake_space.h"
#include "support/watched_source.h"

namespace dwunw::unwind {
namespace {

using namespace dwarf;
using testing::Bytes;
using testing::FakeSpace;
using testing::FakeStack;
using testing::FakeTables;
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
    kByRax = 0x2000,    // CFA = rax+8
    kHelper = 0x2100,   // CFA = rsp+8, and code: nop; jmp back; ret
    kHelperEnd = 0x2104,
    kContext = 0x2200, // CFA = rsp+8, and the code of glibc's __start_context
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
        section.fde(cie, kByRax, 0x100, Bytes().def_cfa(RAX, 8));
        section.fde(cie, kHelper, kHelperEnd - kHelper);
        section.fde(cie, kContext, 0x20);
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
        space_.set_code(at(kHelper), {0x90, 0xeb, 0xfd, 0xc3});
        call(kByRax, 0x20, kHelper);
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

    // A direct call that ends at `offset`.
    void call(uint64_t function, uint64_t offset, uint64_t called) {
        const auto distance = static_cast<uint32_t>(called - function - offset);
        space_.set_code(at(function, offset) - 5, {0xe8});
        for (unsigned i = 0; i < 4; ++i)
            space_.set_code(at(function, offset) - 4 + i, {static_cast<uint8_t>(distance >> (8 * i))});
    }

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
            EXPECT_EQ(result_.unmentioned_frames, cold.unmentioned_frames);
            EXPECT_EQ(result_.no_code_frames, cold.no_code_frames);
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
        expect_same_by_tables(regs, memory, cold_frames);
        return result_.status;
    }
    // A signal handler's walk goes as far as it can, and no frame is another one.
    void expect_same_by_tables(const Registers &regs, const StackMemory &memory,
                               const std::array<dwunw_frame, 64> &expected) {
        std::array<dwunw_frame, 64> frames{};
        const FakeTables tables(space_);
        const WalkResult by_tables = walk_by_tables({tables, x86_64(), regs, memory, std::span(frames).first(room_)});
        if (by_tables.status != DWUNW_ERR_WOULD_BLOCK) {
            EXPECT_EQ(by_tables.status, result_.status);
            EXPECT_EQ(by_tables.written, result_.written);
        }
        ASSERT_LE(by_tables.written, result_.written);
        for (size_t i = 0; i < by_tables.written; ++i) {
            EXPECT_EQ(frames[i].pc, expected[i].pc) << i;
            EXPECT_EQ(frames[i].sp, expected[i].sp) << i;
            EXPECT_EQ(frames[i].module, expected[i].module) << i;
            // walk() begins again with the interpreter where a later frame needs it; the frames stay what they were.
            if (expected[i].source == DWUNW_SOURCE_INTERPRETER && frames[i].source == DWUNW_SOURCE_CFI)
                frames[i].source = expected[i].source;
            // How the walk goes on from the last frame is what the signal handler's walk may not know.
            if (i + 1 < by_tables.written || by_tables.status != DWUNW_ERR_WOULD_BLOCK) {
                EXPECT_EQ(0, std::memcmp(&frames[i], &expected[i], sizeof(frames[i]))) << i;
            }
        }
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

// As OpenSSL's assembly does it: helper ← by_rax, which keeps its caller's SP in rax ← middle.
class UnmentionedRegister : public WalkTest {
  protected:
    static constexpr uint64_t kRax = kSp + 96;
    UnmentionedRegister() {
        stack_.set(kSp, at(kByRax, 0x20)).set(kRax, at(kMiddle, 0x20)).set(kRax + 8 + 24, at(kRoot, 0x20));
    }
    static Registers at_helper(uint64_t rax, uint64_t offset = 0) {
        return registers({{RIP, at(kHelper, offset)}, {RSP, kSp}, {RBP, 0}, {RBX, 0}, {RAX, rax}});
    }
    dwunw_status walk_from_helper(uint64_t rax = kRax) { return walk_from(at_helper(rax), stack_.memory()); }
    void expect_stop(const char *why, uint64_t rax = kRax) {
        SCOPED_TRACE(why);
        EXPECT_EQ(walk_from_helper(rax), DWUNW_ERR_REGISTER_UNKNOWN);
        EXPECT_EQ(result_.written, 2u);
        EXPECT_EQ(result_.unmentioned_frames, 0u);
    }
};

TEST_F(UnmentionedRegister, IsUsedWhereTheHelperDoesNotWriteIt) {
    for (const uint64_t offset : {0, 1, 3}) {
        ASSERT_EQ(walk_from(at_helper(kRax, offset), stack_.memory()), DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kHelper, offset), at(kByRax, 0x20), at(kMiddle, 0x20), at(kRoot, 0x20)}));
        EXPECT_EQ(frames_[0].flags, DWUNW_FRAME_FLAG_EXACT_PC);
        EXPECT_EQ(frames_[1].flags, DWUNW_FRAME_FLAG_CFA_UNMENTIONED);
        EXPECT_EQ(frames_[2].flags, 0u);
        EXPECT_EQ(frames_[1].cfa, kRax + 8);
        EXPECT_EQ(frames_[2].sp, kRax + 8);
        EXPECT_EQ(result_.unmentioned_frames, 1u);
        EXPECT_FALSE(result_.used_interpreter);
    }
    expect_stop("what is not an instruction's beginning", kRax + 8);
}

// Warm, no file is looked at: neither for the rule, nor for the code.
TEST_F(UnmentionedRegister, IsWarm) {
    space_.rules = std::make_unique<RuleCache>();
    const Registers regs = at_helper(kRax);
    const StackMemory memory = stack_.memory();
    const WalkRequest request{space_, x86_64(), regs, memory, {}, frames_};
    for (int i = 0; i < 3; ++i)
        ASSERT_EQ(walk(request).status, DWUNW_OK);
    const size_t finds = space_.finds;
    EXPECT_EQ(walk(request).written, 4u);
    EXPECT_EQ(space_.finds, finds);
    // What is remembered is the helper's, not any function's that returns to the same address.
    const Registers at_leaf = registers({{RIP, at(kLeaf)}, {RSP, kSp}, {RAX, kRax}});
    for (int i = 0; i < 3; ++i)
        EXPECT_EQ(walk({space_, x86_64(), at_leaf, memory, {}, frames_}).status, DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(walk(request).written, 4u);
}

TEST_F(UnmentionedRegister, IsNotUsedWhereTheHelperMayHaveWrittenIt) {
    space_.set_code(at(kHelper), {0x31, 0xc0, 0xc3, 0xc3});
    expect_stop("xor %eax, %eax");
    space_.set_code(at(kHelper), {0x58, 0x50, 0x90, 0xc3});
    expect_stop("pop %rax");
    space_.set_code(at(kHelper), {0xff, 0xd1, 0x90, 0xc3});
    expect_stop("call *%rcx");
    space_.set_code(at(kHelper), {0xeb, 0x10, 0x90, 0xc3});
    expect_stop("jmp to elsewhere");
    space_.set_code(at(kHelper), {0x0f, 0x05, 0x90, 0xc3});
    expect_stop("syscall");
    space_.set_code(at(kHelper), {0x90, 0x90, 0x90, 0x90});
    expect_stop("the next function follows");
    space_.set_code(at(kHelper), {0x31, 0xc9, 0x90, 0xc3});
    EXPECT_EQ(walk_from_helper(), DWUNW_OK) << "xor %ecx, %ecx";
}

TEST_F(UnmentionedRegister, IsNotUsedWhereSomethingElseWasCalled) {
    call(kByRax, 0x20, kLeaf);
    expect_stop("another function");
    call(kByRax, 0x20, kHelperEnd);
    expect_stop("the function behind it");
    space_.set_code(at(kByRax, 0x20 - 5), {0x90, 0x90, 0x90, 0xff, 0xd1});
    expect_stop("whatever rcx held");
    call(kByRax, 0x20, kHelper + 2);
    expect_stop("the middle of an instruction");
    call(kByRax, 0x20, kHelper + 1);
    EXPECT_EQ(walk_from_helper(), DWUNW_OK) << "another entry of the helper's";
}

TEST_F(UnmentionedRegister, IsNotUsedForAnImpossibleCfa) {
    expect_stop("not above SP", kSp);
    expect_stop("the helper's own return address", kSp + 8 - 8);
    expect_stop("no return address there", kRax + 16);
    expect_stop("far away", kSp + (uint64_t{1} << 20) + 8);
    expect_stop("not in the stack", 0);
    stack_.set(kRax, at(kLeaf, 0x40));
    expect_stop("no call before it");
    // It may be right, and lies beyond the slice.
    EXPECT_EQ(walk_from_helper(kStack + stack_.bytes()), DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(result_.written, 2u);
    const Registers without_rax = registers({{RIP, at(kHelper)}, {RSP, kSp}});
    EXPECT_EQ(walk_from(without_rax, stack_.memory()), DWUNW_ERR_REGISTER_UNKNOWN);
}

// A rule that ends with the call does not say that the call gives the register back.
TEST_F(UnmentionedRegister, IsNotUsedWhereTheRuleEndsWithTheCall) {
    for (const bool goes_on : {true, false}) {
        FrameSection section;
        const size_t cie = section.cie();
        section.fde(cie, 0x100, 4);
        section.fde(cie, 0x300, 0x40, Bytes().def_cfa(RAX, 8).advance(goes_on ? 6 : 5).def_cfa(RSP, 32));
        section.fde(cie, 0x400, 0x40, Bytes({DW_CFA_undefined, RIP}));
        FakeSpace space;
        space.add_module(kModule, 0x1000, section);
        space.set_code(kModule + 0x100, {0x90, 0x90, 0x90, 0xc3});
        space.set_code(kModule + 0x300, {0xe8, 0xfb, 0xfd, 0xff, 0xff}); // call 0x100
        space.set_code(kModule + 0x400, {0xff, 0xd0});
        FakeStack stack(kStack, 256);
        stack.set(kSp, kModule + 0x305).set(kRax, kModule + 0x402);
        const Registers regs = registers({{RIP, kModule + 0x100}, {RSP, kSp}, {RAX, kRax}});
        const StackMemory memory = stack.memory();
        const WalkResult result = walk({space, x86_64(), regs, memory, {}, frames_});
        EXPECT_EQ(result.status, goes_on ? DWUNW_OK : DWUNW_ERR_REGISTER_UNKNOWN);
        EXPECT_EQ(result.written, goes_on ? 3u : 2u);
    }
}

// Two calls away, another may have been made and have returned in between.
TEST_F(UnmentionedRegister, IsKnownForOneCallOnly) {
    FrameSection section;
    const size_t cie = section.cie();
    section.fde(cie, 0x100, 4);
    section.fde(cie, 0x200, 0x20);
    section.fde(cie, 0x300, 0x40, Bytes().def_cfa(RAX, 8));
    FakeSpace space;
    space.add_module(kModule, 0x1000, section);
    space.set_code(kModule + 0x100, {0x90, 0x90, 0x90, 0xc3});
    space.set_code(kModule + 0x200, {0xe8, 0xfb, 0xfe, 0xff, 0xff, 0xc3}); // call 0x100; ret
    space.set_code(kModule + 0x300, {0xe8, 0xfb, 0xfe, 0xff, 0xff});       // call 0x200
    FakeStack stack(kStack, 256);
    stack.set(kSp, kModule + 0x205).set(kSp + 8, kModule + 0x305).set(kRax, kModule + 0x205);
    const Registers regs = registers({{RIP, kModule + 0x100}, {RSP, kSp}, {RAX, kRax}});
    const StackMemory memory = stack.memory();
    const WalkResult result = walk({space, x86_64(), regs, memory, {}, frames_});
    EXPECT_EQ(result.status, DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(result.written, 3u);
}

// The handler's rax is not the helper's, which the signal frame holds.
TEST_F(UnmentionedRegister, OfAnInterruptedFrame) {
    const uint64_t frame = kStack + 1024;
    stack_.set(frame - 8, at(kMusl)).set(frame + 144, kRax).set(frame + 160, kSp).set(frame + 168, at(kHelper, 1));
    const auto in_handler = [&](uint64_t rax) {
        return registers({{RIP, at(kLeaf)}, {RSP, frame - 8}, {RAX, rax}, {RBP, 0}});
    };
    ASSERT_EQ(walk_from(in_handler(0), stack_.memory()), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMusl), at(kHelper, 1), at(kByRax, 0x20), at(kMiddle, 0x20), at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[3].flags, DWUNW_FRAME_FLAG_CFA_UNMENTIONED);
    EXPECT_TRUE(result_.used_interpreter);
    stack_.set(frame + 144, 0);
    EXPECT_EQ(walk_from(in_handler(kRax), stack_.memory()), DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(result_.written, 4u);
}

TEST_F(UnmentionedRegister, BeforeAPendingUretprobe) {
    stack_.set(kRax, kUprobes);
    pending_ = {{kRax, at(kMiddle, 0x20)}};
    ASSERT_EQ(walk_from_helper(), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kHelper), at(kByRax, 0x20), at(kMiddle, 0x20), at(kRoot, 0x20)}));
    pending_ = {{kRax + 8, at(kMiddle, 0x20)}};
    EXPECT_EQ(walk_from_helper(), DWUNW_ERR_UPROBE_TRAMPOLINE);
}

// A call of an address that is not code: middle called `pc`, and its return address is on top of the stack.
class NoCode : public WalkTest {
  protected:
    static constexpr uint64_t kHeap = 0x900000;
    static constexpr uint64_t kTop = kSp + 8; // as a call leaves it: 8 below a multiple of 16
    NoCode() {
        static_assert(kTop % 16 == 8);
        // An odd number: it does not show whether a `ret` led there.
        stack_.set(kTop, at(kMiddle, 0x20)).set(kTop + 8 + 24, at(kRoot, 0x20)).set(kTop - 8, 0x1111);
    }
    void called_by(std::initializer_list<uint8_t> code) {
        space_.set_code(at(kMiddle, 0x20) - 9, {0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90});
        space_.set_code(at(kMiddle, 0x20) - code.size(), code);
    }
    dwunw_status walk_called(uint64_t pc, std::pair<testing::Reg, uint64_t> reg = {RAX, 0}, uint64_t sp = kTop) {
        return walk_from(registers({{RIP, pc}, {RSP, sp}, {RBP, 77}, {RBX, 0}, reg}), stack_.memory());
    }
    void expect_caller(uint64_t pc) {
        EXPECT_EQ(pcs(), (Pcs{pc, at(kMiddle, 0x20), at(kRoot, 0x20)}));
        EXPECT_EQ(frames_[0].flags, DWUNW_FRAME_FLAG_EXACT_PC | DWUNW_FRAME_FLAG_NO_CODE);
        EXPECT_EQ(frames_[0].cfa, kTop + 8);
        EXPECT_EQ(frames_[0].module, nullptr);
        EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_CALL);
        EXPECT_EQ(frames_[1].flags, 0u);
        EXPECT_EQ(frames_[1].sp, kTop + 8);
        EXPECT_EQ(result_.no_code_frames, 1u);
    }
    void expect_stop(const char *why, dwunw_status status = DWUNW_ERR_NO_MAPPING) {
        SCOPED_TRACE(why);
        EXPECT_EQ(result_.status, status);
        EXPECT_EQ(result_.written, 1u);
        EXPECT_EQ(result_.no_code_frames, 0u);
    }
};

TEST_F(NoCode, CalledByARegister) {
    for (const uint64_t pc : {uint64_t{0}, kHeap, kStack + 8, ~uint64_t{0} - 7}) {
        called_by({0xff, 0xd0});
        EXPECT_EQ(walk_called(pc, {RAX, pc}), DWUNW_OK);
        expect_caller(pc);
        walk_called(pc, {RAX, pc + 8});
        expect_stop("rax is another address");
        called_by({0x41, 0xff, 0xd3});
        EXPECT_EQ(walk_called(pc, {R11, pc}), DWUNW_OK);
        expect_caller(pc);
    }
    walk_called(kHeap);
    expect_stop("r11 is not known");
}

TEST_F(NoCode, CalledByAWordOfTheStack) {
    called_by({0xff, 0x54, 0x24, 0x10}); // call *16(%rsp), rsp being what it was before the call
    stack_.set(kTop + 8 + 16, kHeap);
    EXPECT_EQ(walk_called(kHeap), DWUNW_OK);
    expect_caller(kHeap);
    walk_called(kHeap + 1);
    expect_stop("another address is there");
    called_by({0xff, 0x54, 0xc8, 0x10}); // call *16(%rax, %rcx, 8)
    EXPECT_EQ(walk_from(registers({{RIP, kHeap}, {RSP, kTop}, {RAX, kTop - 8}, {RCX, 2}}), stack_.memory()), DWUNW_OK);
    expect_caller(kHeap);
    called_by({0xff, 0x90, 0, 0, 1, 0}); // call *0x10000(%rax), beyond the slice
    walk_called(0, {RAX, kTop});
    expect_stop("more of the stack would decide", DWUNW_ERR_SLICE_EXHAUSTED);
}

// A slice does not hold a program's variables. That pc 0 was called by one is then taken on trust, that another pc was,
// not.
TEST_F(NoCode, CalledByAWordThatCannotBeRead) {
    for (const auto &code : {std::initializer_list<uint8_t>{0xff, 0x15, 0, 0x10, 0, 0}, {0xff, 0x50, 0x18}}) {
        called_by(code);
        EXPECT_EQ(walk_called(0, {RAX, kHeap}), DWUNW_OK);
        expect_caller(0);
        walk_called(kHeap, {RAX, kHeap});
        expect_stop("it may be code that the map does not show");
    }
    called_by({0x64, 0xff, 0x14, 0x25, 0x10, 0, 0, 0}); // call *%fs:16
    EXPECT_EQ(walk_called(0), DWUNW_OK);
    expect_caller(0);
}

TEST_F(NoCode, CalledDirectly) {
    call(kMiddle, 0x20, 0x500000);
    EXPECT_EQ(walk_called(kModule + 0x500000), DWUNW_OK);
    expect_caller(kModule + 0x500000);
    walk_called(0);
    expect_stop("the call went elsewhere");
    // To an entry of a PLT, which jumps through a word.
    call(kMiddle, 0x20, kNoCfi + 0x80);
    space_.set_code(at(kNoCfi, 0x80), {0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0, 0x10, 0, 0});
    EXPECT_EQ(walk_called(0), DWUNW_OK);
    expect_caller(0);
    space_.set_code(at(kNoCfi, 0x80), {0xff, 0x25, 0, 0x10, 0, 0});
    EXPECT_EQ(walk_called(0), DWUNW_OK);
    expect_caller(0);
}

TEST_F(NoCode, NoCallLedThere) {
    called_by({0x90, 0x90});
    walk_called(0);
    expect_stop("no call there");
    stack_.set(kTop, kHeap);
    walk_called(0);
    expect_stop("no code there");
    stack_.set(kTop, 0);
    walk_called(0);
    expect_stop("nothing there");
    walk_called(0, {RAX, 0}, kStack + stack_.bytes() + 8);
    expect_stop("nothing is known to be there", DWUNW_ERR_SLICE_EXHAUSTED);
}

// A return address that was overwritten: `ret` leaves it below SP, and SP a multiple of 16.
TEST_F(NoCode, AReturnToItIsNotACall) {
    called_by({0xff, 0xd0});
    stack_.set(kTop - 8, 0);
    EXPECT_EQ(walk_called(0), DWUNW_OK); // a zero may lie there by chance: SP decides
    expect_caller(0);
    stack_.set(kTop + 8, at(kMiddle, 0x20)).set(kTop, 0);
    walk_called(0, {RAX, 0}, kTop + 8);
    expect_stop("a ret");
    stack_.set(kTop, 0x1111).set(kTop + 16 + 24, at(kRoot, 0x20));
    EXPECT_EQ(walk_called(0, {RAX, 0}, kTop + 8), DWUNW_OK) << "code that does not keep to the psABI";
}

TEST_F(NoCode, BeforeAPendingUretprobe) {
    called_by({0xff, 0xd0});
    stack_.set(kTop, kUprobes);
    walk_called(0);
    expect_stop("not known", DWUNW_ERR_UPROBE_TRAMPOLINE);
    pending_ = {{kTop, at(kMiddle, 0x20)}};
    EXPECT_EQ(walk_called(0), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{0, at(kMiddle, 0x20), at(kRoot, 0x20)}));
    pending_ = {{kTop, at(kLeaf, 0x20)}};
    walk_called(0);
    expect_stop("no call led from there");
}

// The kernel's page of old system calls, which no file is.
TEST_F(NoCode, InVsyscall) {
    constexpr uint64_t kVsyscall = 0xffffffffff600400;
    called_by({0xff, 0xd0});
    EXPECT_EQ(walk_called(kVsyscall, {RAX, kVsyscall}), DWUNW_OK);
    expect_caller(kVsyscall);
    space_.add_other(CodeKind::kAnonymous, kVsyscall & ~uint64_t{0xfff}, 0x1000);
    EXPECT_EQ(walk_called(kVsyscall, {RAX, kVsyscall}), DWUNW_OK);
    expect_caller(kVsyscall);
}

// A handler of the SIGSEGV: the interrupted pc is 0, which is not the root.
TEST_F(NoCode, InterruptedByASignal) {
    const uint64_t frame = kStack + 1024;
    called_by({0xff, 0xd0});
    stack_.set(frame - 8, at(kMusl)).set(frame + 144, 0).set(frame + 160, kTop).set(frame + 168, 0);
    const Registers handler = registers({{RIP, at(kLeaf)}, {RSP, frame - 8}, {RAX, 1}, {RBP, 0}});
    ASSERT_EQ(walk_from(handler, stack_.memory()), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMusl), 0, at(kMiddle, 0x20), at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[2].flags, DWUNW_FRAME_FLAG_EXACT_PC | DWUNW_FRAME_FLAG_NO_CODE);
    EXPECT_EQ(frames_[2].source, DWUNW_SOURCE_SIGNAL);
    EXPECT_EQ(frames_[3].source, DWUNW_SOURCE_CALL);
    stack_.set(frame + 144, 8); // rax
    EXPECT_EQ(walk_from(handler, stack_.memory()), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMusl)}));
}

TEST_F(NoCode, SlicesCutAnywhere) {
    called_by({0xff, 0x54, 0x24, 0x10});
    stack_.set(kTop + 8 + 16, 0);
    ASSERT_EQ(walk_called(0), DWUNW_OK);
    const size_t whole = result_.written;
    for (size_t size = kTop - kStack; size < stack_.bytes(); ++size) {
        SCOPED_TRACE(size);
        walk_from(registers({{RIP, 0}, {RSP, kTop}, {RBP, 77}}), stack_.memory(size));
        EXPECT_LE(result_.written, whole);
        if (result_.written < whole) {
            EXPECT_EQ(result_.status, DWUNW_ERR_SLICE_EXHAUSTED);
        }
    }
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
    space_.add_other(CodeKind::kUnmapped, 0x7fe000, 0x8000, DWUNW_ERR_NOT_EXECUTABLE);
    stack_.set(kSp, kSp); // in the stack, which is not executable
    EXPECT_EQ(walk_from(at(kLeaf)), DWUNW_ERR_NOT_EXECUTABLE);
    EXPECT_EQ(walk_from(kSp), DWUNW_ERR_NOT_EXECUTABLE);

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
