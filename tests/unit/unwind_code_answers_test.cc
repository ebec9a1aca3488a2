// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Answers about code: those of a file stay, those of other code are valid for a time and in one generation of the map.
#include "unwind/code_answers.h"

#include <gtest/gtest.h>

namespace dwunw::unwind {
namespace {

constexpr uint64_t kNow = 1'000'000'000;

class CodeAnswersTest : public ::testing::Test {
  protected:
    // Only the address of a module counts.
    const dwunw_module *module(int number) const {
        return reinterpret_cast<const dwunw_module *>(&storage_[static_cast<size_t>(number)]);
    }

    std::array<char, 4> storage_{};
    CodeAnswers answers_;
};

TEST_F(CodeAnswersTest, AFilesAnswersStay) {
    const CodeAnswers::Question place{module(0), 0, LinkAddr(0x1000), {}, true};
    CodeExits exits;
    exits.count = 2;
    exits.exits[1].slot = {CodeValue::Base::kSp, 24};
    exits.complete = false;
    answers_.keep(place, kNow, exits);
    const auto found = answers_.exits(place, kNow + 1000 * CodeAnswers::kHolds);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->count, 2u);
    EXPECT_EQ(found->exits[1].slot, exits.exits[1].slot);
    EXPECT_FALSE(found->complete);
}

TEST_F(CodeAnswersTest, EachPlaceHasItsOwn) {
    const CodeAnswers::Question place{module(0), 0, LinkAddr(0x1000), LinkAddr(0x900), true};
    answers_.keep_never_returns(place, kNow, true);
    CodeAnswers::Question other = place;
    other.module = module(1);
    EXPECT_FALSE(answers_.never_returns(other, kNow));
    other = place;
    other.at = LinkAddr(0x1001);
    EXPECT_FALSE(answers_.never_returns(other, kNow));
    other = place;
    other.from = LinkAddr(0x901);
    EXPECT_FALSE(answers_.never_returns(other, kNow));
    other = place;
    other.is_return_address = false;
    EXPECT_FALSE(answers_.never_returns(other, kNow));
    EXPECT_EQ(answers_.never_returns(place, kNow), true);
    EXPECT_FALSE(answers_.follows_call(place, kNow)) << "another question";
}

TEST_F(CodeAnswersTest, OfCodeWithoutAFileTheyEnd) {
    const CodeAnswers::Question place{nullptr, 7, LinkAddr(0x1000), {}, true};
    answers_.keep_follows_call(place, kNow, true);
    EXPECT_EQ(answers_.follows_call(place, kNow + CodeAnswers::kHolds), true);
    EXPECT_FALSE(answers_.follows_call(place, kNow + CodeAnswers::kHolds + 1));
    CodeAnswers::Question later = place;
    later.generation = 8;
    EXPECT_FALSE(answers_.follows_call(later, kNow)) << "another map";
    answers_.keep_follows_call(place, kNow + 2 * CodeAnswers::kHolds, false);
    EXPECT_EQ(answers_.follows_call(place, kNow + 2 * CodeAnswers::kHolds), false);
}

TEST_F(CodeAnswersTest, AMissingPrologueIsAnAnswer) {
    const CodeAnswers::Question place{module(0), 0, LinkAddr(0x1000), {}, true};
    EXPECT_FALSE(answers_.prologue(place, kNow));
    answers_.keep(place, kNow, std::optional<CodeReach>());
    const auto found = answers_.prologue(place, kNow);
    ASSERT_TRUE(found);
    EXPECT_FALSE(*found);
}

TEST_F(CodeAnswersTest, WithoutRoomAllAnswersAreForgotten) {
    const auto place = [&](uint64_t at) { return CodeAnswers::Question{module(0), 0, LinkAddr(at), {}, true}; };
    CodeReach reach;
    reach.reached = true;
    for (uint64_t at = 0; at < CodeAnswers::kMost; ++at)
        answers_.keep(place(at), kNow, reach);
    EXPECT_TRUE(answers_.reach(place(0), kNow));
    answers_.keep(place(CodeAnswers::kMost), kNow, reach);
    EXPECT_FALSE(answers_.reach(place(0), kNow));
    EXPECT_TRUE(answers_.reach(place(CodeAnswers::kMost), kNow));
}

} // namespace
} // namespace dwunw::unwind
