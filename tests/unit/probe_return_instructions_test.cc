// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Assembles code byte by byte, and tests where its calls return.
#include "probe/return_instructions.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <set>

namespace dwunw::probe {
namespace {

constexpr uint64_t kBase = 0x1000;
constexpr uint64_t kSlot = 0x9000;

class ReturnInstructions : public ::testing::Test {
  protected:
    void put(uint64_t address, std::initializer_list<uint8_t> bytes) {
        if (code_.size() < address - kBase + bytes.size())
            code_.resize(address - kBase + bytes.size(), 0xcc); // int3
        std::ranges::copy(bytes, code_.begin() + static_cast<ptrdiff_t>(address - kBase));
    }
    Returns find(uint64_t entry = kBase) {
        const CodeMap map = {
            .read = [this](LinkAddr address, std::span<uint8_t> buffer) -> size_t {
                const uint64_t offset = address.value - kBase;
                if (offset >= code_.size())
                    return 0;
                const size_t size = std::min<size_t>(buffer.size(), code_.size() - offset);
                std::copy_n(code_.begin() + static_cast<ptrdiff_t>(offset), size, buffer.begin());
                return size;
            },
            .is_function = [this](LinkAddr address) { return functions_.contains(address.value); },
            .slot_target = [this](LinkAddr slot) { return slot.value == kSlot ? slot_ : CodeMap::Target{}; },
        };
        return find_returns(map, LinkAddr(entry));
    }
    std::map<uint64_t, dwunw_probe_result> known(uint64_t entry = kBase) {
        const Returns found = find(entry);
        EXPECT_EQ(found.unknown, "");
        std::map<uint64_t, dwunw_probe_result> result;
        for (const auto &[address, place] : found.instructions)
            result.emplace(address.value, place);
        return result;
    }

    std::vector<uint8_t> code_;
    std::set<uint64_t> functions_;
    CodeMap::Target slot_;
};

using Expected = std::map<uint64_t, dwunw_probe_result>;
constexpr auto kRax = DWUNW_PROBE_RESULT_IN_RAX;
constexpr auto kRdi = DWUNW_PROBE_RESULT_IN_RDI;

TEST_F(ReturnInstructions, BothWaysOfAConditionalJump) {
    put(0x1000, {0x48, 0x85, 0xff}); // test %rdi, %rdi
    put(0x1003, {0x74, 0x01});       // je 0x1006
    put(0x1005, {0xc3});
    put(0x1006, {0xf3, 0xc3}); // repz ret
    EXPECT_EQ(known(), (Expected{{0x1005, kRax}, {0x1006, kRax}}));
}

TEST_F(ReturnInstructions, AFunctionThatEndsInAJumpReturnsWhereTheOtherDoes) {
    put(0x1000, {0xeb, 0x0e});                   // jmp 0x1010
    put(0x1010, {0xe8, 0, 0, 0, 0, 0xc2, 8, 0}); // call; ret $8
    EXPECT_EQ(known(), (Expected{{0x1015, kRax}}));
}

TEST_F(ReturnInstructions, ALoopEnds) {
    put(0x1000, {0x75, 0xfe, 0xc3}); // jne itself; ret
    EXPECT_EQ(known(), (Expected{{0x1002, kRax}}));
}

TEST_F(ReturnInstructions, ACallThatDoesNotReturnIsNotFollowedIntoTheNextFunction) {
    put(0x1000, {0x74, 0x06});       // je 0x1008
    put(0x1002, {0xe8, 0, 0, 0, 0}); // call abort
    put(0x1007, {0xc3});             // another function
    put(0x1008, {0xc3});
    functions_ = {0x1000, 0x1007};
    EXPECT_EQ(known(), (Expected{{0x1008, kRax}}));
}

TEST_F(ReturnInstructions, FallingIntoTheNextFunctionIsFollowed) {
    put(0x1000, {0x90, 0xc3}); // nop; ret
    functions_ = {0x1000, 0x1001};
    EXPECT_EQ(known(), (Expected{{0x1001, kRax}}));
}

TEST_F(ReturnInstructions, AnIndirectJumpMakesTheAnswerUnknown) {
    put(0x1000, {0x74, 0x02, 0xff, 0xe0, 0xc3}); // je 0x1004; jmp *%rax; ret
    const Returns found = find();
    EXPECT_TRUE(found.instructions.empty()) << "not the one that was found";
    EXPECT_EQ(found.unknown, "`jmp rax` at 0x1002 may lead anywhere");
}

TEST_F(ReturnInstructions, BadBytesAndTheEndOfTheCodeMakeTheAnswerUnknown) {
    put(0x1000, {0x06});
    EXPECT_EQ(find().unknown, "no instruction at 0x1000");
    code_ = {0x90};
    EXPECT_EQ(find().unknown, "no instruction at 0x1001");
}

TEST_F(ReturnInstructions, AJumpThroughTheGotIsFollowedWhereItIsKnown) {
    put(0x1000, {0xff, 0x25, 0xfa, 0x7f, 0, 0}); // jmp *kSlot(%rip)
    put(0x1100, {0xc3});
    EXPECT_EQ(find().unknown, "`jmp [0x9000]` at 0x1000 may lead anywhere");
    slot_ = {CodeMap::Target::Kind::kCode, LinkAddr(0x1100)};
    EXPECT_EQ(known(), (Expected{{0x1100, kRax}}));
    slot_ = {CodeMap::Target::Kind::kReturnsFirstArgument, {}};
    EXPECT_EQ(known(), (Expected{{0x1000, kRdi}}));
}

// glibc's calloc. The PLT entry is everybody's, and would be probed for all of them.
TEST_F(ReturnInstructions, AJumpToThePltEntryOfMemsetIsTheReturn) {
    put(0x1000, {0x74, 0x0e, 0xeb, 0x1c}); // je 0x1010; jmp 0x1020
    put(0x1010, {0xc3});
    put(0x1020, {0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0xd6, 0x7f, 0, 0}); // endbr64; jmp *kSlot(%rip)
    slot_ = {CodeMap::Target::Kind::kReturnsFirstArgument, {}};
    EXPECT_EQ(known(), (Expected{{0x1002, kRdi}, {0x1010, kRax}}));
    // A conditional jump is made on other ways, too.
    put(0x1002, {0x75, 0x1c, 0xc3}); // jne 0x1020; ret
    EXPECT_EQ(known(), (Expected{{0x1004, kRax}, {0x1010, kRax}, {0x1024, kRdi}}));
}

TEST_F(ReturnInstructions, AFunctionWithoutAReturnHasNoReturnInstructions) {
    put(0x1000, {0x0f, 0x0b}); // ud2
    EXPECT_TRUE(known().empty());
}

TEST_F(ReturnInstructions, TooMuchCodeIsNotFollowed) {
    code_.assign(kMaxFollowed + 1, 0x90);
    EXPECT_EQ(find().unknown, "the function has too much code to follow");
    code_.clear();
    for (uint64_t i = 0; i < kMaxReturns + 1; ++i)
        put(kBase + 3 * i, {0x74, 0x01, 0xc3}); // je past it; ret
    EXPECT_EQ(find().unknown, "the function has too many return instructions");
}

} // namespace
} // namespace dwunw::probe
