// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The ids of stacks: equal stacks have one, and stacks that differ in a frame never do, also where the walk is user
// space's.
#include "support/bpf_walk_fixture.h"

#include <algorithm>

namespace dwunw::bpf {
namespace {

using namespace dwarf;
using namespace testing;
using unwind::CodeKind;

// Two stacks for user space that differ in such an address alone are two.
TEST_F(BpfWalk, StacksThatDifferInAWideAddressAlone) {
    constexpr uint64_t kWide = 0xff000000400000;
    map_again(kWide);
    set(kSp, kJit + 0x100).set(kSp + 64, kWide + kMiddle + 0x20);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    set(kSp + 64, kWide + kMiddle + 0x28);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id);
}

TEST_F(BpfWalk, CallsOfNoCodeDifferInTheRegisterThatWasCalled) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 24, at(kRoot, 1));
    expect_left(0x123, 0, DWUNW_BPF_NO_MAPPING);
    const int64_t id = kernel_walk(0x123, 0);
    EXPECT_EQ(kernel_walk(0x123, 0x124), id);
    EXPECT_NE(kernel_walk(0x123, 0x123), id) << "the frame pointer is what was called";
}

TEST_F(BpfWalk, EqualStacksForUserSpaceHaveOneId) {
    set(kSp, kJit + 0x100).set(kSp + 64, at(kMiddle, 0x20)).set(kSp + 72, kSp + 128);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    set(kSp + 80, 12345).set(kSp + 88, 0x10); // what is neither code nor stack
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    const auto expect_other = [&](uint64_t address, uint64_t value) {
        const uint64_t before = words_[(address - kStack) / 8];
        set(address, value);
        EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << std::hex << address << " " << value;
        set(address, before);
        EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    };
    expect_other(kSp + 64, at(kMiddle, 0x28));
    expect_other(kSp + 64, 0);
    expect_other(kSp + 1024, at(kMiddle, 0x20));
    expect_other(kSp + 72, kSp + 136);
    expect_other(kStack + kStackWords * 8 - 8, at(kMiddle, 0x20));
    EXPECT_NE(kernel_walk(at(kLeaf), kSp + 64), id) << "the frame pointer";
}

// What a pending return took out of its slot lies nowhere in the stack: two callers had one id, and one's frames.
TEST_F(BpfWalk, StacksThatDifferInAPendingReturnAlone) {
    set(kSp, kJit + 0x100).set(kSp + 64, kUprobes);
    for (const uint64_t flags : {uint64_t{0}, uint64_t{DWUNW_USER_ONLY}}) {
        pending_ = {{kSp - 64, 0}, {kSp + 64, at(kMiddle, 0x20)}};
        const int64_t id = kernel_walk(at(kLeaf), 0, flags);
        ASSERT_GT(id, 0);
        pending_ = {{kSp - 64, 0}, {kSp + 64, at(kMiddle, 0x28)}};
        EXPECT_NE(kernel_walk(at(kLeaf), 0, flags), id);
        pending_ = {{kSp - 64, 0}, {kSp + 64, at(kMiddle, 0x20)}};
        EXPECT_EQ(kernel_walk(at(kLeaf), 0, flags), id);
        sp_ += 512; // the same, elsewhere
        set(sp_, kJit + 0x100).set(sp_ + 64, kUprobes);
        pending_ = {{sp_ - 64, 0}, {sp_ + 64, at(kMiddle, 0x20)}};
        set(kSp, 0).set(kSp + 64, 0);
        const int64_t elsewhere = kernel_walk(at(kLeaf), 0, flags);
        sp_ = kSp;
        set(kSp, kJit + 0x100).set(kSp + 64, kUprobes).set(kSp + 512, 0).set(kSp + 512 + 64, 0);
        EXPECT_EQ(elsewhere, id);
    }
}

// The words that tell a slice are those at multiples of 8: of a stack that lies between them, none is one.
TEST_F(BpfWalk, UnalignedStacksForUserSpaceAreNeverTakenForEachOther) {
    auto *bytes = reinterpret_cast<uint8_t *>(words_.data()) + (kSp - kStack);
    const auto put = [&](size_t at_byte, uint64_t value) { std::memcpy(bytes + at_byte, &value, sizeof(value)); };
    for (const bool from_the_start : {true, false}) {
        SCOPED_TRACE(from_the_start);
        sp_ = from_the_start ? kSp + 4 : kSp;
        const uint64_t pc = from_the_start ? at(kLeaf) : at(kOdd);
        put(4, kJit + 0x100);
        put(36, at(kMiddle, 0x20));
        const int64_t id = kernel_walk(pc, 0);
        ASSERT_GT(id, 0);
        EXPECT_EQ(world_.reason, DWUNW_BPF_ANONYMOUS);
        put(36, at(kMiddle, 0x28));
        EXPECT_NE(kernel_walk(pc, 0), id);
    }
}

// A return to code that came after the map was published, with as many pages as went: what is mapped now is not known.
TEST_F(BpfWalk, StacksThatDifferInCodeThatIsNotPublished) {
    process_.code_filter = 1ull << DWUNW_BPF_FILTER_BIT(kModule); // as the publisher has it
    space_.add_other(CodeKind::kAnonymous, 0x7f0012340000, 0x10000);
    set(kSp, 0x7f0012345678).set(kSp + 32, 0x7f0012340000);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_NO_MAPPING);
    set(kSp, 0x7f0012345688);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "where it stopped";
    set(kSp, 0x7f0012345678);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    set(kSp + 32, 0x7f0012340008);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "further out";
    set(kSp + 32, 0x7f0012340000).set(kSp + 40, 12345);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id) << "small numbers are no code";
}

// In one of seven processes a module's bit of the filter was that of zero, and every zero in a stack was looked up.
TEST(BpfCodeFilter, SmallNumbersShareNoBitWithCode) {
    constexpr uint64_t kGranule = 1 << 21;
    for (const uint64_t small : {uint64_t{0}, uint64_t{1}, kGranule - 1})
        EXPECT_EQ(DWUNW_BPF_FILTER_BIT(small), 0u) << small;
    std::array<int, 64> used{};
    constexpr int kCount = 6300;
    for (int i = 1; i <= kCount; ++i) {
        for (const uint64_t base : {uint64_t{0}, uint64_t{0x5555'5540'0000}, uint64_t{0x7fff'0000'0000}}) {
            const uint64_t bit = DWUNW_BPF_FILTER_BIT(base + static_cast<uint64_t>(i) * kGranule);
            ASSERT_GE(bit, 1u);
            ASSERT_LE(bit, 63u);
            ++used[bit];
        }
    }
    EXPECT_LT(*std::max_element(used.begin(), used.end()), 2 * 3 * kCount / 63) << "spread over all of them";
}

TEST_F(BpfWalk, EqualFramesElsewhereInTheStackAreOneStack) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 24, at(kRoot, 0x30)).set(kSp + 24, 1);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    sp_ += 512;
    set(sp_, at(kMiddle, 0x20)).set(sp_ + 8 + 24, at(kRoot, 0x30)).set(sp_ + 24, 2);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    set(sp_, at(kMiddle, 0x21));
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id);
    process_.layout = 2;
    set(sp_, at(kMiddle, 0x20));
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "the addresses mean something else";
}

} // namespace
} // namespace dwunw::bpf
