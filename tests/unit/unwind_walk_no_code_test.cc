// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Walks from a pc that is not code: its caller is known only if a call led there.
#include "support/walk_fixture.h"

namespace dwunw::unwind {
namespace {

using namespace dwarf;
using namespace testing;

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

TEST_F(NoCode, ADirectCallLedThere) {
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
TEST_F(NoCode, InTheVsyscallPage) {
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

} // namespace
} // namespace dwunw::unwind
