// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw_calls.bpf.h as user code: which entry a return belongs to.
#include "support/bpf_user_walk.h"

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

constexpr uint64_t kSp = 0x7ffd0000;

class BpfCalls : public ::testing::Test {
  protected:
    BpfCalls() { bpf_user_forget_calls(); }
    bool begin(uint64_t sp, uint64_t value) { return bpf_user_call_begin(&world_, sp, value) != 0; }
    // SP at the entry: a return takes the return address off the stack.
    uint64_t end(uint64_t sp) { return bpf_user_call_end(&world_, sp + 8); }

    bpf_user_world world_{};
};

TEST_F(BpfCalls, AReturnHasWhatItsEntryLeft) {
    EXPECT_TRUE(begin(kSp, 5));
    EXPECT_EQ(end(kSp), 5u);
    EXPECT_EQ(end(kSp), 0u) << "once";
}

TEST_F(BpfCalls, AReturnWithoutAnEntryIsNone) { EXPECT_EQ(end(kSp), 0u); }

TEST_F(BpfCalls, CallsWithinACallAreNotSeen) {
    EXPECT_TRUE(begin(kSp, 5));
    for (uint64_t depth = 8; depth < 0x1000; depth += 8) {
        EXPECT_FALSE(begin(kSp - depth, 6));
        EXPECT_EQ(end(kSp - depth), 0u);
    }
    EXPECT_EQ(end(kSp), 5u);
    EXPECT_TRUE(begin(kSp - 64, 7)) << "nothing is under way any more";
    EXPECT_EQ(end(kSp - 64), 7u);
}

TEST_F(BpfCalls, ACallThatWasLeftWithoutAReturnIsForgotten) {
    EXPECT_TRUE(begin(kSp - 64, 5)); // and longjmp
    EXPECT_TRUE(begin(kSp, 6));
    EXPECT_EQ(end(kSp - 64), 0u);
    EXPECT_EQ(end(kSp), 6u);
    EXPECT_TRUE(begin(kSp - 64, 7));
    EXPECT_TRUE(begin(kSp - 64, 8)) << "from the same place";
    EXPECT_EQ(end(kSp - 64), 8u);
}

TEST_F(BpfCalls, AJumpAtTheEndOfACall) {
    EXPECT_TRUE(begin(kSp, 5));
    EXPECT_TRUE(begin(kSp, 6));
    EXPECT_EQ(end(kSp), 6u);
    EXPECT_EQ(end(kSp), 0u) << "both returns are at one place, and count once";
}

TEST_F(BpfCalls, WithoutMemoryTheyAreCounted) {
    world_.no_calls = 1;
    EXPECT_FALSE(begin(kSp, 5));
    EXPECT_EQ(end(kSp), 0u);
    EXPECT_EQ(world_.counters[DWUNW_BPF_LOST_CALLS], 1u);
}

} // namespace
} // namespace dwunw::bpf
