// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares the walk of dwunw.bpf.h, as user code, with the user-space walk. A complete stack equals that walk's, frame
// for frame; everything else goes to user space, with its reason. bpf_walk_id_test and bpf_walk_validity_test have the
// ids, and the maps that the walk may use.
#include "support/bpf_walk_fixture.h"

#include <random>

namespace dwunw::bpf {
namespace {

using namespace dwarf;
using namespace testing;
using unwind::CodeKind;

TEST_F(BpfWalk, PlainFramesAreWalkedToTheRoot) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 16, kSp + 80).set(kSp + 8 + 24, at(kByRbp, 0x30));
    set(kSp + 80, 0).set(kSp + 88, at(kRoot, 0x40));
    expect_complete(at(kLeaf, 4), 0, 4);
}

TEST_F(BpfWalk, AReturnAddressOfZeroIsTheEnd) {
    set(kSp, 0);
    expect_complete(at(kLeaf), 0, 1);
}

// No table has such a rule, but the walk does not take it for another kind.
TEST_F(BpfWalk, TheReservedPlaceOfAReturnAddressIsLeftToUserSpace) {
    unwind::Rule leaf;
    leaf.cfa_reg = RSP;
    leaf.cfa_offset = 8;
    leaf.ra_kind = unwind::ValueKind::kAtCfa;
    leaf.ra_offset = -8;
    const uint64_t word = rule_word(leaf, x86_64());
    const auto found = std::ranges::find(cells_, word);
    ASSERT_NE(found, cells_.end());
    *found |= uint64_t{DWUNW_RULE_RA_IN_REGISTER} << DWUNW_RULE_RA_SHIFT;
    set(kSp, at(kRoot, 1));
    expect_left(at(kLeaf), kSp, DWUNW_BPF_COMPLEX);
}

TEST_F(BpfWalk, AlignedFramesAreWalkedToTheRoot) {
    // leaf → drap, whose CFA lies in its frame.
    set(kSp, at(kDrap, 0x20)).set(kSp + 104 - 8, kSp + 200).set(kSp + 104, kSp + 300 / 8 * 8);
    set(kSp + 200 - 8, at(kRoot, 1));
    expect_complete(at(kLeaf), kSp + 104, 3);
}

TEST_F(BpfWalk, PltEntriesBeforeAndBehindTheirPush) {
    set(kSp, at(kRoot, 1)).set(kSp + 8, at(kRoot, 2));
    for (uint64_t byte = 0; byte < 16; ++byte) {
        expect_complete(at(kPlt, 16 + byte), 0, 2);
        EXPECT_EQ(frames_[1].pc, at(kRoot, byte >= 11 ? 2 : 1)) << byte;
    }
}

TEST_F(BpfWalk, SignalFramesAreWalkedToTheRoot) {
    // handler → trampoline → interrupted, exact → root
    set(kSp, at(kSignal)).set(kSp + 8 + 160, kSp + 512).set(kSp + 8 + 168, at(kMiddle)).set(kSp + 8 + 120, 77);
    set(kSp + 512 + 16, 0).set(kSp + 512 + 24, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 4);
    EXPECT_EQ(frames_[2].flags, uint32_t{DWUNW_FRAME_FLAG_EXACT_PC});
}

TEST_F(BpfWalk, ASignalStackMayLieAbove) {
    sp_ = kSp + 2048;
    set(sp_, at(kSignal)).set(sp_ + 8 + 160, kSp).set(sp_ + 8 + 168, at(kLeaf)).set(sp_ + 8 + 120, 0);
    set(kSp, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 4);
}

TEST_F(BpfWalk, OtherWaysToCfaAndFp) {
    // plus: rbp becomes CFA − 8, which by_rbp then needs.
    set(kSp, at(kPlus, 1)).set(kSp + 8 + 16, at(kByRbp, 1));
    set(kSp + 32, at(kDeref, 1));
    // deref: CFA = [rsp+8] + 8, rsp being kSp + 40
    set(kSp + 48, kSp + 400).set(kSp + 400, at(kFarAbove, 1));
    // far above: rsp is kSp + 408
    set(kSp + 408 + 8, kSp + 1200).set(kSp + 408 + 0x1f8, at(kByRbp, 7));
    set(kSp + 1200, 0).set(kSp + 1208, at(kRoot, 1));
    expect_complete(at(kLeaf), 5, 7);
}

TEST_F(BpfWalk, AnUnalignedStack) {
    // CFA = rsp + 12
    auto *bytes = reinterpret_cast<uint8_t *>(words_.data());
    const uint64_t outer = at(kRoot, 1);
    std::memcpy(bytes + (kSp - kStack) + 4, &outer, sizeof(outer));
    expect_complete(at(kOdd), 0, 2);
}

TEST_F(BpfWalk, TheStacksLastWordIsRead) {
    sp_ = kStack + kStackWords * 8 - 8;
    set(sp_, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 2);
    sp_ -= 0x400;
    set(sp_ + 8, at(kRoot, 1)).set(sp_, at(kForgets, 1));
    set(sp_ + 16, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 3);
}

TEST_F(BpfWalk, PendingReturnsGiveTheOriginalAddresses) {
    // Three of them, the inner two in one slot: a tail call.
    set(kSp, kUprobes).set(kSp + 8 + 16, 3).set(kSp + 8 + 24, kUprobes);
    pending_ = {{kSp, at(kMiddle, 0x20)}, {kSp, at(kMiddle, 0x20)}, {kSp + 32, at(kRoot, 9)}};
    expect_complete(at(kLeaf), 0, 3);
    // One that was jumped over comes first.
    pending_.insert(pending_.begin(), {kSp - 64, at(kLeaf)});
    expect_complete(at(kLeaf), 0, 3);
}

// With 5-level paging the kernel's page of pending returns lies above all addresses of 4-level paging. Found in use:
// the walk took it for no address, and nine of ten stacks were lost wherever another tool had a return probe.
TEST_F(BpfWalk, PendingReturnsWithFiveLevelPaging) {
    constexpr uint64_t kWideUprobes = 0xffffffffffe000;
    space_.add_other(CodeKind::kUprobeTrampoline, kWideUprobes, 0x1000);
    world_.trampoline = kWideUprobes;
    set(kSp, kWideUprobes).set(kSp + 8 + 16, 3).set(kSp + 8 + 24, kWideUprobes);
    pending_ = {{kSp, at(kMiddle, 0x20)}, {kSp + 32, at(kRoot, 9)}};
    expect_complete(at(kLeaf), 0, 3);
    pending_.clear();
    expect_left(at(kLeaf), 0, DWUNW_BPF_TRAMPOLINE);
    // What would be the trampoline's address with 4-level paging is no address here.
    set(kSp, kUprobes | uint64_t{1} << 57);
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
}

// A program may ask for memory there. The cache's keys have no room for such addresses.
TEST_F(BpfWalk, CodeAboveTheAddressesOfFourLevelPaging) {
    constexpr uint64_t kWide = 0xff000000400000;
    static_assert((kWide & ((uint64_t{1} << DWUNW_BPF_PC_BITS) - 1)) == kModule); // one key for both
    map_again(kWide);
    const auto far = [](uint64_t function, uint64_t offset) { return kWide + function + offset; };
    set(kSp, far(kMiddle, 0x20)).set(kSp + 8 + 16, 3).set(kSp + 8 + 24, at(kMiddle, 0x20));
    set(kSp + 40 + 16, 3).set(kSp + 40 + 24, far(kRoot, 9));
    for (const char *how : {"cold", "warm"}) {
        SCOPED_TRACE(how);
        ASSERT_EQ(user_walk(far(kLeaf, 0), 0), DWUNW_OK);
        EXPECT_EQ(result_.written, 4u);
        ASSERT_GT(kernel_walk(far(kLeaf, 0), 0), 0);
        EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
        expect_equal();
    }
    // The other way round: what is remembered of an address is not taken for a wide one's.
    set(kSp, at(kRoot, 9));
    expect_complete(at(kLeaf), 0, 2);
    for (auto &mapping : mappings_)
        if (mapping.start == kWide)
            mapping.end = mapping.start + 1;
    set(kSp, far(kRoot, 9));
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
}

TEST_F(BpfWalk, APendingReturnMayBeTheEnd) {
    set(kSp, kUprobes);
    pending_ = {{kSp, 0}};
    expect_complete(at(kLeaf), 0, 1);
}

TEST_F(BpfWalk, ATrampolineBehindAMapping) {
    mappings_.push_back({.start = kUprobes - 0x1000, .end = kUprobes, .origin = 0, .table = 5, .kind = 0});
    world_.mappings = mappings_.data();
    world_.mapping_count = process_.count = 3;
    set(kSp, kUprobes);
    pending_ = {{kSp, at(kRoot, 1)}};
    expect_complete(at(kLeaf), 0, 2);
}

// A call that never returns, as its function's last instruction: the rule is the caller's, not the next function's.
TEST_F(BpfWalk, CallAtTheEndOfItsFunction) {
    space_.set_code(at(kMiddle) - 5, {0xe8});
    set(kSp, at(kMiddle)).set(kSp + 8, at(kRoot, 0x20));
    expect_complete(at(kLeaf), 0, 3);
}

TEST_F(BpfWalk, AnUndecidedStackGoesToUserSpace) {
    set(kSp, kUprobes);
    expect_left(at(kLeaf), 0, DWUNW_BPF_TRAMPOLINE);
    set(kSp, kJit + 0x100);
    expect_left(at(kLeaf), 0, DWUNW_BPF_ANONYMOUS);
    set(kSp, at(kNoCfi, 0x20));
    expect_left(at(kLeaf), 0, DWUNW_BPF_GAP);
    set(kSp, 0x123456789);
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
    set(kSp, at(kLeaf) | uint64_t{1} << 47);
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
    set(kSp, at(kByR10, 0x20));
    expect_left(at(kLeaf), 0, DWUNW_BPF_COMPLEX);
    set(kSp, at(kMusl)); // the byte before it has a rule
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_CALL);
    set(kSp, at(kMiddle)); // the byte before it has another rule, and is no call's
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_CALL);
    set(kSp, at(kForgets, 1)).set(kSp + 8 + 8, at(kByRbp, 1));
    expect_left(at(kLeaf), 0, DWUNW_BPF_REGISTER);
    set(kSp, at(kByRbp, 1));
    expect_left(at(kLeaf), 8, DWUNW_BPF_UNREADABLE);
    expect_left(at(kStuck), 0, DWUNW_BPF_NO_PROGRESS);
    expect_left(0x123, 0, DWUNW_BPF_NO_MAPPING);
}

// A pc of 0 that a signal interrupted is no root: the caller of the null pointer follows, in user space.
TEST_F(BpfWalk, ASignalInACallOfANullPointer) {
    set(kSp, at(kSignal)).set(kSp + 8 + 160, kSp + 512).set(kSp + 8 + 168, 0);
    set(kSp + 512, at(kMiddle, 0x20)).set(kSp + 512 + 8 + 24, at(kRoot, 1));
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
    // Which of the registers that the signal saved was called is not in the id: no two are one stack.
    const int64_t id = kernel_walk(at(kLeaf), 0);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id);
}

TEST_F(BpfWalk, DeepStacksEndAtTheFrameLimit) {
    sp_ = kStack;
    for (size_t i = 0; i < 511; ++i)
        set(kStack + 8 * i, at(kLeaf, 0x10));
    set(kStack + 8 * 510, at(kRoot, 1));
    ASSERT_EQ(user_walk(at(kLeaf), 0), DWUNW_OK);
    ASSERT_EQ(result_.written, 512u);
    EXPECT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    expect_equal();
    set(kStack + 8 * 510, at(kLeaf, 1)).set(kStack + 8 * 511, at(kRoot, 1));
    EXPECT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_FRAME_LIMIT);
}

TEST_F(BpfWalk, FlagsAndReasons) {
    set(kSp, at(kRoot, 1));
    EXPECT_GT(kernel_walk(at(kLeaf), 0, DWUNW_USER_ONLY), 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_FORCED);
    set(kSp, kJit + 0x100);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0, DWUNW_KERNEL_ONLY), -DWUNW_BPF_KERNEL_ONLY_END);
    world_.ring_is_full = 1;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_DROPPED);
    set(kSp, at(kRoot, 1));
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_DROPPED);
    EXPECT_EQ(world_.sent_count, 0u) << "what was not sent is not noted as sent";
    EXPECT_EQ(world_.counters[DWUNW_BPF_DROPPED], 2u);
}

TEST_F(BpfWalk, ThirtyTwoBitCodeIsNotWalked) {
    std::array<uint64_t, DWUNW_BPF_PT_REGS> regs{};
    regs[16] = at(kLeaf);
    regs[19] = kSp;
    regs[17] = 0x23;
    EXPECT_EQ(bpf_user_get_stackid(&world_, regs.data(), 0), -DWUNW_BPF_NOT_USER);
}

TEST_F(BpfWalk, PagesThatAreNotThereAreNeededOrNot) {
    // The frames leave out what cannot be read.
    hole_start_ = kStack + 0x1000;
    hole_end_ = kStack + 0x1800;
    set(kSp, at(kDeref, 1)).set(kSp + 16, kStack + 0x1900).set(kStack + 0x1900, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 3);
    set(kSp + 16, kStack + 0x1200);
    expect_left(at(kLeaf), 0, DWUNW_BPF_UNREADABLE);
}

// For any stack: a stack that is complete in the kernel is complete in user space, with the same frames.
TEST_F(BpfWalk, RandomStacksAreWalkedAlike) {
    std::mt19937_64 random(7);
    constexpr std::array kFunctions = {kLeaf, kMiddle, kByRbp, kDrap,  kPlt, kRoot,     kSignal, kForgets,
                                       kPlus, kDeref,  kByR10, kNoCfi, kOdd, kFarAbove, kBefore, kMusl};
    const auto code = [&] { return at(kFunctions[random() % kFunctions.size()], random() % 0x40); };
    const auto stack = [&] { return kStack + random() % kStackWords * 8; };
    size_t complete = 0;
    size_t missed = 0;
    for (int i = 0; i < 40000; ++i) {
        for (size_t word = 0; word < 256; ++word) {
            const uint64_t kind = random() % 16;
            words_[word] = kind < 9 ? code() : kind < 14 ? stack() : kind == 14 ? kUprobes : random() % 3;
        }
        if (i % 64 == 0)
            process_.generation = static_cast<uint32_t>(1 + i / 64);
        const uint64_t pc = code();
        const uint64_t fp = stack();
        pending_.clear();
        for (size_t word = 0; word < 256; ++word)
            if (words_[word] == kUprobes && random() % 4 != 0)
                pending_.push_back({kStack + word * 8, code()});
        ASSERT_NE(kernel_walk(pc, fp), 0);
        const bool kernel_complete = world_.reason == DWUNW_BPF_COMPLETE;
        const dwunw_status status = user_walk(pc, fp);
        if (!kernel_complete) {
            missed += status == DWUNW_OK && !result_.used_interpreter;
            continue;
        }
        ++complete;
        ASSERT_EQ(status, DWUNW_OK) << i;
        expect_equal();
        ASSERT_FALSE(HasFailure()) << i;
    }
    EXPECT_GT(complete, 4000u);
    EXPECT_LT(missed, complete / 20) << "sent to user space although rules alone decide";
}

} // namespace
} // namespace dwunw::bpf
