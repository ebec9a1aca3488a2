// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests where a function with a frame pointer may begin, and the target of a direct call.
#include "arch/x86_64/arch.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace dwunw::arch::x86_64 {
namespace {

using Bytes = std::vector<uint8_t>;
using Found = std::optional<size_t>;

TEST(FrameBegins, InEitherEncoding) {
    EXPECT_EQ(frame_begins(Bytes{0x55, 0x48, 0x89, 0xe5, 0x90}, 5), Found(0));
    EXPECT_EQ(frame_begins(Bytes{0x55, 0x48, 0x8b, 0xec, 0x90}, 5), Found(0));
    EXPECT_EQ(frame_begins(Bytes{0xc3, 0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x53}, 10), Found(5));
}

// push %rbp; movslq %edi,%rdi; add $0xf,%rdi; and $-16,%rdi; mov %rsp,%rbp; sub %rdi,%rsp
TEST(FrameBegins, WithOtherInstructionsInIt) {
    const Bytes code = {0x55, 0x48, 0x63, 0xff, 0x48, 0x83, 0xc7, 0x0f, 0x48, 0x83,
                        0xe7, 0xf0, 0x48, 0x89, 0xe5, 0x48, 0x29, 0xfc, 0xbf};
    for (size_t end = 0; end <= code.size(); ++end)
        EXPECT_EQ(frame_begins(code, end), end >= 15 ? Found(0) : Found()) << end;
}

TEST(FrameBegins, NotWithoutAPushOfRbp) {
    EXPECT_FALSE(frame_begins(Bytes{0x48, 0x89, 0xe5, 0x90}, 4));
    EXPECT_FALSE(frame_begins(Bytes{0x41, 0x55, 0x48, 0x89, 0xe5, 0x90}, 6)); // push %r13
    EXPECT_FALSE(frame_begins(Bytes{0x55, 0x48, 0x89, 0xe5}, 3));
    EXPECT_FALSE(frame_begins(Bytes{}, 0));
}

// GCC's realigned stacks: lea 8(%rsp),%r10; and $-32,%rsp; push -8(%r10); push %rbp; mov %rsp,%rbp
TEST(FrameBegins, NotWhereTheReturnAddressIsACopy) {
    EXPECT_FALSE(frame_begins(Bytes{0x41, 0xff, 0x72, 0xf8, 0x55, 0x48, 0x89, 0xe5, 0x41, 0x52}, 10));
}

TEST(FrameBegins, TheLastOne) {
    Bytes code = {0x55, 0x48, 0x89, 0xe5, 0xc9, 0xc3, 0x55, 0x48, 0x89, 0xe5, 0x90};
    EXPECT_EQ(frame_begins(code, code.size()), Found(6));
    EXPECT_EQ(frame_begins(code, 6), Found(0));
}

// sub $0x28,%rsp; mov %rbp,0x20(%rsp); lea 0x20(%rsp),%rbp
TEST(FrameBegins, AsGoDidIt) {
    Bytes code = {0x48, 0x83, 0xec, 0x28, 0x48, 0x89, 0x6c, 0x24, 0x20, 0x48, 0x8d, 0x6c, 0x24, 0x20, 0x90};
    EXPECT_EQ(frame_begins(code, code.size()), Found(4));
    code[13] = 0x28; // another place
    EXPECT_FALSE(frame_begins(code, code.size()));
    const Bytes large = {0x48, 0x89, 0xac, 0x24, 0, 1, 0, 0, 0x48, 0x8d, 0xac, 0x24, 0, 1, 0, 0, 0x90};
    EXPECT_EQ(frame_begins(large, large.size()), Found(0));
}

TEST(DirectCall, TargetIsTheDistanceOfTheCall) {
    EXPECT_EQ(direct_call(Bytes{0x90, 0x90, 0xe8, 0x10, 0, 0, 0}), std::optional<int64_t>(0x10));
    EXPECT_EQ(direct_call(Bytes{0xe8, 0xf0, 0xff, 0xff, 0xff}), std::optional<int64_t>(-16));
    EXPECT_FALSE(direct_call(Bytes{0x90, 0x90, 0x90, 0xff, 0xd0}));
    EXPECT_FALSE(direct_call(Bytes{0xe8, 0, 0, 0}));
}

} // namespace
} // namespace dwunw::arch::x86_64
