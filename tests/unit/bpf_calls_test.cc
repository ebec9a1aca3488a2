// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests dwunw_calls.bpf.h as user code, against a model of the kernel's pending returns: each return belongs to its own
// entry, and a return that may still come is never dropped.
#include "support/bpf_user_walk.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <map>
#include <vector>

namespace dwunw::bpf {
namespace {

constexpr uint64_t kTrampoline = 0x7fffffffe000;
constexpr uint64_t kBlock = 0x700000; // the thread control block
constexpr uint64_t kGuard = 0x123456789abcdef0;
constexpr uint64_t kOwn = 0x7ffd00000000;
constexpr uint64_t kSize = 0x100000;
constexpr uint64_t kSp = kOwn + 0x80000;
constexpr uint64_t kAltAbove = kOwn + 2 * kSize;
constexpr uint64_t kAltBelow = kOwn - 2 * kSize;
constexpr uint64_t kFiberAbove = kOwn + 4 * kSize + 0x8000;
constexpr uint64_t kFiberBelow = kOwn - 4 * kSize + 0x8000;
constexpr uint64_t kByInstruction = 1; // DWUNW_CALL_BY_INSTRUCTION

class BpfCalls : public ::testing::Test {
  protected:
    BpfCalls() {
        bpf_user_forget_calls();
        world_.trampoline = kTrampoline;
        world_.thread_block = kBlock;
        world_.own_stack = kOwn;
        world_.own_stack_size = kSize;
        world_.arg = this;
        world_.read = [](void *arg, uint64_t address, void *buffer, size_t length) {
            const auto &memory = static_cast<BpfCalls *>(arg)->memory_;
            const auto found = memory.find(address);
            if (found == memory.end() || length != sizeof(uint64_t))
                return 0;
            std::memcpy(buffer, &found->second, length);
            return 1;
        };
        memory_[kBlock + 0x30] = kGuard;
    }
    void set_alt_stack(uint64_t start) {
        world_.alt_stack = start;
        world_.alt_stack_size = kSize;
    }
    void look_at_pending() {
        world_.pending = pending_.data();
        world_.pending_count = pending_.size();
    }

    // A call with a return probe, as a session has it. True where it is followed.
    bool call(uint64_t sp, uint64_t value) {
        memory_[sp] = 0x401000; // the return address
        look_at_pending();
        if (bpf_user_call_begin(&world_, sp, value, 0) == 0)
            return false;
        hijack(sp);
        return true;
    }
    // What the kernel does: arch/x86/kernel/uprobes.c, arch_uretprobe_is_alive.
    void hijack(uint64_t sp) {
        const bool chained = memory_[sp] == kTrampoline;
        while (!pending_.empty() && (chained ? pending_.front().slot < sp : pending_.front().slot <= sp)) {
            EXPECT_FALSE(live_.contains(pending_.front().slot)) << "a return was dropped that still comes";
            pending_.erase(pending_.begin());
        }
        pending_.insert(pending_.begin(), {sp, memory_[sp]});
        memory_[sp] = kTrampoline;
        live_[sp] = true;
    }
    // The call with this SP at its entry returns, and the word stays where it is. 0: nothing is seen of it.
    uint64_t finish(uint64_t sp) {
        if (memory_[sp] != kTrampoline)
            return 0;
        while (!pending_.empty() && pending_.front().slot < sp)
            pending_.erase(pending_.begin());
        EXPECT_FALSE(pending_.empty()) << "the program dies of SIGILL";
        if (!pending_.empty())
            pending_.erase(pending_.begin());
        live_.erase(sp);
        return bpf_user_call_end(&world_, sp + 8, 0);
    }
    void leave_for_good(uint64_t sp) { live_.erase(sp); }
    // A jmp_buf for a jump to `sp`, as glibc and as musl write it.
    uint64_t jump_buffer(uint64_t sp, bool glibc = true) {
        memory_[0x5000 + 48] = glibc ? std::rotl(sp ^ kGuard, 17) : sp;
        return 0x5000;
    }
    uint64_t abandoned() const { return world_.counters[DWUNW_BPF_ABANDONED_CALLS]; }
    uint64_t left_alone() const { return world_.counters[DWUNW_BPF_OTHER_STACK_CALLS]; }

    // By return instructions: nothing is changed in the stack.
    bool call_plain(uint64_t sp, uint64_t value) {
        return bpf_user_call_begin(&world_, sp, value, kByInstruction) != 0;
    }
    uint64_t finish_plain(uint64_t sp) { return bpf_user_call_end(&world_, sp, kByInstruction); }

    bpf_user_world world_{};
    std::map<uint64_t, uint64_t> memory_;
    std::vector<dwunw_bpf_pending> pending_; // innermost first
    std::map<uint64_t, bool> live_;          // slots of calls that will return
};

TEST_F(BpfCalls, AReturnGetsTheValuesOfItsEntry) {
    EXPECT_TRUE(call(kSp, 5));
    EXPECT_EQ(finish(kSp), 5u);
    EXPECT_EQ(bpf_user_call_end(&world_, kSp + 8, 0), 0u) << "once";
    EXPECT_EQ(abandoned(), 0u);
}

TEST_F(BpfCalls, AReturnWithoutAnEntryIsIgnored) { EXPECT_EQ(bpf_user_call_end(&world_, kSp + 8, 0), 0u); }

TEST_F(BpfCalls, CallsWithinACallAreNotSeen) {
    EXPECT_TRUE(call(kSp, 5));
    for (uint64_t depth = 8; depth <= 8 * 60; depth += 8) {
        EXPECT_FALSE(call(kSp - depth, 6));
        EXPECT_EQ(finish(kSp - depth), 0u);
    }
    EXPECT_EQ(finish(kSp), 5u);
    EXPECT_TRUE(call(kSp - 64, 7)) << "nothing is pending any more";
    EXPECT_EQ(finish(kSp - 64), 7u);
    EXPECT_EQ(left_alone(), 0u);
}

TEST_F(BpfCalls, ACallThatWasLeftWithoutAReturnIsForgotten) {
    EXPECT_TRUE(call(kSp - 64, 5));
    leave_for_good(kSp - 64);
    EXPECT_TRUE(call(kSp, 6)) << "above it, on the same stack";
    EXPECT_EQ(finish(kSp), 6u);
    EXPECT_TRUE(call(kSp - 64, 7));
    leave_for_good(kSp - 64);
    EXPECT_TRUE(call(kSp - 64, 8)) << "from the same place";
    EXPECT_EQ(finish(kSp - 64), 8u);
    EXPECT_EQ(abandoned(), 2u);
}

TEST_F(BpfCalls, ACallWhoseSlotHoldsSomethingElseHasEnded) {
    EXPECT_TRUE(call(kSp, 5));
    leave_for_good(kSp);
    memory_[kSp] = 1234;
    EXPECT_TRUE(call(kFiberBelow, 6));
    EXPECT_EQ(finish(kFiberBelow), 6u);
    EXPECT_EQ(abandoned(), 1u);
}

TEST_F(BpfCalls, SoManyCallsWithinACallAreOfOneThatWasLeft) {
    EXPECT_TRUE(call(kSp, 5));
    leave_for_good(kSp);
    int seen = 0;
    for (int i = 0; i < 200; ++i)
        if (call(kSp - 512, 6)) {
            ++seen;
            EXPECT_EQ(finish(kSp - 512), 6u);
        }
    EXPECT_EQ(seen, 200 - 64);
    EXPECT_EQ(abandoned(), 1u);
}

TEST_F(BpfCalls, AJumpToAnotherFunctionAtACallsEnd) {
    EXPECT_TRUE(call(kSp, 5));
    look_at_pending();
    EXPECT_EQ(bpf_user_call_begin(&world_, kSp, 6, 0), 1);
    hijack(kSp);
    EXPECT_EQ(finish(kSp), 6u);
    EXPECT_EQ(bpf_user_call_end(&world_, kSp + 8, 0), 0u) << "both returns are at one place, and count once";
    EXPECT_EQ(abandoned(), 0u);
}

// The program died of SIGILL: the kernel takes the pending return for one that a longjmp left.
TEST_F(BpfCalls, ASignalHandlerOnAStackAboveLeavesThePendingReturn) {
    set_alt_stack(kAltAbove);
    for (uint64_t round = 1; round < 100; ++round) {
        EXPECT_TRUE(call(kSp, round));
        EXPECT_FALSE(call(kAltAbove + 0x800, 6));
        EXPECT_EQ(finish(kAltAbove + 0x800), 0u);
        EXPECT_EQ(finish(kSp), round);
        EXPECT_EQ(left_alone(), round);
    }
    EXPECT_EQ(abandoned(), 0u);
}

TEST_F(BpfCalls, ASignalHandlerOnAStackBelowIsLeftAlone) {
    set_alt_stack(kAltBelow);
    EXPECT_TRUE(call(kSp, 5));
    EXPECT_FALSE(call(kAltBelow + 0x800, 6));
    EXPECT_EQ(finish(kSp), 5u);
    EXPECT_EQ(left_alone(), 1u);
    EXPECT_TRUE(call(kAltBelow + 0x800, 7)) << "and seen when nothing is pending";
    EXPECT_EQ(finish(kAltBelow + 0x800), 7u);
}

TEST_F(BpfCalls, FibersThatAreSuspendedInACallReturn) {
    EXPECT_TRUE(call(kFiberBelow, 5));
    EXPECT_FALSE(call(kFiberAbove, 6));
    EXPECT_FALSE(call(kFiberBelow + kSize, 7));
    EXPECT_FALSE(call(kFiberBelow + 0x20000, 8)) << "in the same mapping";
    EXPECT_EQ(finish(kFiberAbove), 0u);
    EXPECT_EQ(finish(kFiberBelow), 5u);
    EXPECT_EQ(left_alone(), 3u);
    EXPECT_TRUE(call(kFiberAbove, 9));
    EXPECT_EQ(finish(kFiberAbove), 9u);
}

TEST_F(BpfCalls, ACallWithinACallOfAFiberIsNotSeen) {
    EXPECT_TRUE(call(kFiberAbove, 5));
    EXPECT_FALSE(call(kFiberAbove - 64, 6));
    EXPECT_EQ(finish(kFiberAbove), 5u);
    EXPECT_EQ(left_alone(), 0u);
}

// siglongjmp on a high stack hid every later call on a lower one.
TEST_F(BpfCalls, AJumpOutOfACallHidesNoCallOnALowerStack) {
    for (const bool glibc : {true, false}) {
        EXPECT_TRUE(call(kSp - 4096, 5));
        leave_for_good(kSp - 4096);
        bpf_user_call_jump(&world_, jump_buffer(kSp, glibc));
        EXPECT_TRUE(call(kFiberBelow, 6));
        EXPECT_EQ(finish(kFiberBelow), 6u);
    }
    EXPECT_EQ(abandoned(), 2u);
}

TEST_F(BpfCalls, AJumpWithinACallLeavesIt) {
    EXPECT_TRUE(call(kSp, 5));
    bpf_user_call_jump(&world_, jump_buffer(kSp - 512));
    bpf_user_call_jump(&world_, jump_buffer(kFiberAbove));
    memory_.erase(0x5000 + 48);
    bpf_user_call_jump(&world_, 0x5000);
    EXPECT_EQ(finish(kSp), 5u);
    EXPECT_EQ(abandoned(), 0u);
}

TEST_F(BpfCalls, AJumpOffTheAlternateStackEndsItsCalls) {
    for (const uint64_t alt : {kAltAbove, kAltBelow}) {
        set_alt_stack(alt);
        EXPECT_TRUE(call(alt + 0x800, 5));
        leave_for_good(alt + 0x800);
        bpf_user_call_jump(&world_, jump_buffer(kSp));
        EXPECT_TRUE(call(kSp, 6)) << "though the kernel's list still has the other";
        EXPECT_EQ(finish(kSp), 6u);
    }
    EXPECT_EQ(abandoned(), 2u);
}

TEST_F(BpfCalls, APendingReturnOfAnotherToolIsKept) {
    set_alt_stack(kAltAbove);
    memory_[kSp] = 0x401000;
    hijack(kSp); // theirs
    EXPECT_FALSE(call(kAltAbove + 0x800, 5));
    EXPECT_TRUE(call(kSp - 512, 6)) << "on the same stack it is";
    EXPECT_EQ(finish(kSp - 512), 6u);
    EXPECT_EQ(left_alone(), 1u);
    EXPECT_EQ(pending_.size(), 1u);
}

TEST_F(BpfCalls, ByInstructionACallIsKnownByItsSlot) {
    EXPECT_TRUE(call_plain(kSp, 5));
    EXPECT_FALSE(call_plain(kSp - 64, 6));
    EXPECT_EQ(finish_plain(kSp - 64), 0u);
    EXPECT_EQ(finish_plain(kSp), 5u);
    EXPECT_TRUE(call_plain(kSp - 512, 7));
    EXPECT_TRUE(call_plain(kSp, 8)) << "the other was left";
    EXPECT_EQ(finish_plain(kSp), 8u);
    EXPECT_EQ(abandoned(), 1u);
}

TEST_F(BpfCalls, ByInstructionTheCallOfAnotherFiberIsSeen) {
    set_alt_stack(kAltAbove);
    EXPECT_TRUE(call_plain(kSp, 5));
    EXPECT_FALSE(call_plain(kAltAbove + 0x800, 6)) << "a handler's is not: the one that it interrupted goes on";
    EXPECT_TRUE(call_plain(kFiberBelow, 7));
    EXPECT_EQ(finish_plain(kFiberBelow), 7u);
    EXPECT_EQ(finish_plain(kSp), 0u);
    EXPECT_EQ(abandoned(), 1u);
    EXPECT_EQ(left_alone(), 1u);
}

TEST_F(BpfCalls, WithoutMemoryTheyAreCounted) {
    world_.no_calls = 1;
    EXPECT_FALSE(call(kSp, 5));
    EXPECT_EQ(world_.counters[DWUNW_BPF_LOST_CALLS], 1u);
}

} // namespace
} // namespace dwunw::bpf
