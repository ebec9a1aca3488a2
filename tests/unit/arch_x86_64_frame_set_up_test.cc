// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which code before a pc shows that the frame pointer is its function's own.
#include "arch/x86_64/arch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace dwunw::arch::x86_64 {
namespace {

bool frame_is_set_up(const std::vector<uint8_t> &code, size_t pc, bool in_call) {
    return frame_set_up(code, pc, in_call, 0).value_or(false);
}

// The pc is the last byte.
bool set_up(const std::vector<uint8_t> &code) { return frame_is_set_up(code, code.size() - 1, false); }

TEST(FrameSetUp, BehindTheBeginning) {
    EXPECT_TRUE(set_up({0x55, 0x48, 0x89, 0xe5, 0x90}));
    EXPECT_TRUE(set_up({0x55, 0x48, 0x8b, 0xec, 0x90}));
    EXPECT_TRUE(set_up({0xc3, 0xcc, 0xcc, 0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x53, 0x90}));
}

// push %rbp; movslq %edi,%rdi; add $0xf,%rdi; and $-16,%rdi; mov %rsp,%rbp; sub %rdi,%rsp
TEST(FrameSetUp, BehindABeginningWithOtherInstructionsInIt) {
    const std::vector<uint8_t> code = {0x55, 0x48, 0x63, 0xff, 0x48, 0x83, 0xc7, 0x0f, 0x48, 0x83,
                                       0xe7, 0xf0, 0x48, 0x89, 0xe5, 0x48, 0x29, 0xfc, 0xbf};
    for (size_t pc = 0; pc < code.size(); ++pc)
        EXPECT_EQ(frame_is_set_up(code, pc, false), pc >= 15) << pc;
}

TEST(FrameSetUp, InsideTheBeginning) {
    EXPECT_FALSE(set_up({0x48, 0x89, 0xe5, 0x90, 0x90})); // nobody pushed rbp
    EXPECT_FALSE(set_up({0x55}));
    EXPECT_FALSE(set_up({0x55, 0x48}));
    EXPECT_FALSE(set_up({0x55, 0x48, 0x89, 0xe5}));
    EXPECT_FALSE(frame_is_set_up({}, 0, false));
    EXPECT_FALSE(set_up({0x90, 0x90, 0x90}));
}

TEST(FrameSetUp, NotBehindAnEnd) {
    for (const uint8_t gives_back : {0x5d, 0xc9})
        for (const uint8_t leaves : {0xc3, 0xc2, 0xe9, 0xeb, 0xff, 0x41}) {
            EXPECT_FALSE(set_up({0x55, 0x48, 0x89, 0xe5, gives_back, leaves, 0x90, 0x90}));
            EXPECT_FALSE(set_up({0x55, 0x48, 0x89, 0xe5, gives_back, leaves})); // at it
        }
    EXPECT_FALSE(set_up({0x55, 0x48, 0x89, 0xe5, 0xcc, 0xcc, 0x90}));
    // crtstuff.c's frame_dummy, behind __do_global_dtors_aux.
    EXPECT_FALSE(set_up({0x55, 0x48, 0x89, 0xe5, 0xe8, 1,    2,    3,    4,    0xc6, 0x05, 1,    2,   3,
                         4,    1,    0x5d, 0xc3, 0x0f, 0x1f, 0x00, 0xc3, 0xf3, 0x0f, 0x1e, 0xfa, 0xe9}));
}

// sub $0x28,%rsp; mov %rbp,0x20(%rsp); lea 0x20(%rsp),%rbp; nop; mov 0x20(%rsp),%rbp; add $0x28,%rsp; ret
TEST(FrameSetUp, AsGoDidIt) {
    const std::vector<uint8_t> code = {0x48, 0x83, 0xec, 0x28, 0x48, 0x89, 0x6c, 0x24, 0x20, 0x48, 0x8d, 0x6c, 0x24,
                                       0x20, 0x90, 0x48, 0x8b, 0x6c, 0x24, 0x20, 0x48, 0x83, 0xc4, 0x28, 0xc3};
    for (size_t pc = 0; pc < code.size(); ++pc)
        EXPECT_EQ(frame_is_set_up(code, pc, false), pc == 14 || pc == 15) << pc;
    const std::vector<uint8_t> large = {0x48, 0x89, 0xac, 0x24, 0, 1, 0, 0, 0x48, 0x8d, 0xac, 0x24, 0, 1, 0, 0, 0x90};
    EXPECT_TRUE(set_up(large));
    std::vector<uint8_t> other_place = large;
    other_place[13] = 2;
    EXPECT_FALSE(set_up(other_place));
}

// A bytecode handler of V8: push %rbp; mov %rsp,%rbp; …; pop %rbp; jmp *%rcx; and behind that a call that it makes.
TEST(FrameSetUp, ACallBehindAnotherPathsEnd) {
    const std::vector<uint8_t> code = {0x55, 0x48, 0x89, 0xe5, 0x90, 0x5d, 0xff, 0xe1, 0xe8, 0, 0, 0, 0, 0x90};
    EXPECT_TRUE(frame_is_set_up(code, 13, true));
    EXPECT_FALSE(frame_is_set_up(code, 13, false));
    const std::vector<uint8_t> never = {0x53, 0x48, 0x89, 0xe3, 0x90, 0x5b, 0xff, 0xe1, 0xe8, 0, 0, 0, 0, 0x90};
    EXPECT_FALSE(frame_is_set_up(never, 13, true));
}

// In pieces, from the pc backwards: a piece says what all of it says, or that more is needed.
TEST(FrameSetUp, APieceSaysTheSameOrNothing) {
    std::vector<uint8_t> code(300, 0x90);
    const std::vector<uint8_t> begin = {0x55, 0x48, 0x63, 0xff, 0x48, 0x89, 0xe5};
    const std::vector<uint8_t> end = {0xc9, 0xc3};
    for (size_t beginning = 0; beginning + begin.size() < 200; beginning += 3)
        for (const size_t ending : {size_t{0}, size_t{20}, size_t{100}, size_t{250}}) {
            std::ranges::fill(code, uint8_t{0x90});
            std::ranges::copy(end, code.begin() + static_cast<ptrdiff_t>(ending));
            std::ranges::copy(begin, code.begin() + static_cast<ptrdiff_t>(beginning));
            for (const bool in_call : {false, true}) {
                const bool all = frame_is_set_up(code, 299, in_call);
                for (size_t from = 0; from < 260; ++from) {
                    const auto piece =
                        frame_set_up(std::span(code).subspan(from), 299 - from, in_call, kFrameSetUpContext);
                    EXPECT_EQ(piece.value_or(all), all) << beginning << " " << ending << " " << from;
                    EXPECT_TRUE(piece || from + kFrameSetUpContext > beginning + 4); // where its mov is
                }
            }
        }
}

} // namespace
} // namespace dwunw::arch::x86_64
