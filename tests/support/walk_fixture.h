// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Whole walks over hand-written modules and stacks, for the tests of the walk.
#pragma once

#include "support/walk_space.h"
#include "unwind/walk.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace dwunw::testing {

constexpr uint64_t kSp = kStack + 128;

// More functions of the module, and the code of those that have none.
constexpr uint64_t kByRbx = 0x1300;    // CFA = rbx+0: the interpreter's
constexpr uint64_t kSavesRbx = 0x1400; // CFA = rsp+24, rbx saved at CFA−16
constexpr uint64_t kBad = 0x1700;      // cannot be executed
constexpr uint64_t kStuck = 0x1800;    // CFA = rsp+8 in memory: *(rsp)
constexpr uint64_t kNoCfi = 0x1900;    // none covers it
constexpr uint64_t kMusl = 0x1a00;     // neither, and the code of a signal trampoline
constexpr uint64_t kStart = 0x1b00;    // neither, and the entry point
constexpr uint64_t kClone = 0x1c00;    // neither, and glibc's code from the system call on
constexpr uint64_t kSplit =
    0x1d00; // two rows with one rule, and the code of a signal trampoline where the second begins
constexpr uint64_t kAbove = 0x1e00;   // CFA = rsp+8, rbp saved at rsp+64, rbx at rsp+72
constexpr uint64_t kSpAbove = 0x1f00; // CFA = rsp+8, rsp saved at rsp+64
constexpr uint64_t kChild = 0x1c10;   // where that goes in the child: the return address is undefined
constexpr uint64_t kByRax = 0x2000;   // CFA = rax+8
constexpr uint64_t kHelper = 0x2100;  // CFA = rsp+8, and code: nop; jmp back; ret
constexpr uint64_t kHelperEnd = 0x2104;
constexpr uint64_t kContext = 0x2200; // CFA = rsp+8, and the code of glibc's __start_context

// Walks over that module. Each walk runs cold, from single FDEs and from tables, and warm, and must give the same
// result each time; and walk_by_tables(), a signal handler's walk, must give a part of it.
class WalkTest : public ::testing::Test {
  protected:
    WalkTest() {
        using namespace dwarf;
        FrameSection section;
        const size_t cie = section.cie();
        add_common_functions(section, cie);
        section.fde(cie, kByRbx, 0x100, Bytes().def_cfa(RBX, 0));
        section.fde(cie, kSavesRbx, 0x100, Bytes().def_cfa_offset(24).offset(RBX, 2));
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
        space_.add_module(kModule, 0x3000, section, kStart);
        add_code_without_module(space_);
        set_signal_code(space_, at(kSplit, 0x20));
        set_signal_code(space_, at(kMusl));
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

    // A direct call that ends at `offset`.
    void call(uint64_t function, uint64_t offset, uint64_t called) {
        const auto distance = static_cast<uint32_t>(called - function - offset);
        space_.set_code(at(function, offset) - 5, {0xe8});
        for (unsigned i = 0; i < 4; ++i)
            space_.set_code(at(function, offset) - 4 + i, {static_cast<uint8_t>(distance >> (8 * i))});
    }

    dwunw_status walk_from(const unwind::Registers &regs, const unwind::StackMemory &memory) {
        const unwind::WalkRequest request{space_,   x86_64(), regs, memory, pending_, std::span(frames_).first(room_),
                                          cfi_only_};
        space_.rules = nullptr;
        result_ = unwind::walk(request);
        const unwind::WalkResult cold = result_;
        const auto cold_frames = frames_;
        in_every_state(space_, [&](const char *how) {
            SCOPED_TRACE(how);
            frames_.fill({});
            result_ = unwind::walk(request);
            EXPECT_STREQ(difference(cold, cold_frames, result_, frames_), nullptr);
        });
        expect_same_by_tables(regs, memory, cold_frames);
        return result_.status;
    }
    // A signal handler's walk goes as far as it can, and no frame is another one.
    void expect_same_by_tables(const unwind::Registers &regs, const unwind::StackMemory &memory,
                               const std::array<dwunw_frame, 64> &expected) {
        std::array<dwunw_frame, 64> frames{};
        const FakeTables tables(space_);
        const unwind::WalkResult by_tables =
            unwind::walk_by_tables({tables, x86_64(), regs, memory, std::span(frames).first(room_)});
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
    unwind::WalkResult result_;
};

using Pcs = std::vector<uint64_t>;

// leaf → middle → by_rbp → root
inline void lay_down_four(FakeStack &stack) {
    stack
        .set(kSp, kModule + kMiddle + 0x20)         // leaf's return address; middle's SP is kSp + 8
        .set(kSp + 8 + 16, kSp + 80)                // rbp of by_rbp
        .set(kSp + 8 + 24, kModule + kByRbp + 0x30) // its return address; by_rbp's SP is kSp + 40
        .set(kSp + 80, 0)
        .set(kSp + 88, kModule + kRoot + 0x40);
}

} // namespace dwunw::testing
