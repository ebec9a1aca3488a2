// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A struct of four versions: the caller has one of them, the library version 2.
#include "abi/sized.h"

#include <gtest/gtest.h>

#include <array>

namespace {

struct Version0 {
    uint32_t size;
};
struct Version1 {
    uint32_t size;
    uint32_t first;
};
struct Version2 {
    uint32_t size;
    uint32_t first;
    uint64_t second;
};
struct Version3 {
    uint32_t size;
    uint32_t first;
    uint64_t second;
    uint64_t third;
};

} // namespace

template <> inline constexpr size_t dwunw::kFirstSize<Version2> = sizeof(Version1);

namespace {

using Input = dwunw::Sized<const Version2>;
using Output = dwunw::Sized<Version2>;

// A caller's struct, and what lies behind it in the caller's memory.
template <typename Version> struct Caller {
    Version given{};
    std::array<uint64_t, 8> behind{};

    Caller() {
        given.size = sizeof(Version);
        behind.fill(~uint64_t{0});
    }
    Version2 *as_known() { return reinterpret_cast<Version2 *>(&given); }
    bool behind_is_untouched() const {
        for (const uint64_t word : behind)
            if (word != ~uint64_t{0})
                return false;
        return true;
    }
};

TEST(Sized, AnOlderInputHasZerosForWhatItLacks) {
    Caller<Version1> caller;
    caller.given.first = 7;
    const Input input(caller.as_known());
    ASSERT_EQ(input.status(), DWUNW_OK);
    EXPECT_EQ(input->first, 7u);
    EXPECT_EQ(input->second, 0u);
}

TEST(Sized, AnInputOfTheSameVersionIsNotCopied) {
    Caller<Version2> caller;
    const Input input(caller.as_known());
    ASSERT_TRUE(input);
    EXPECT_EQ(&*input, &caller.given);
}

TEST(Sized, ANewerInputIsTakenWhereItsUnknownFieldsAreZero) {
    Caller<Version3> caller;
    caller.given.second = 8;
    const Input input(caller.as_known());
    ASSERT_EQ(input.status(), DWUNW_OK);
    EXPECT_EQ(input->second, 8u);
}

TEST(Sized, AnyUnknownByteThatIsNotZeroIsRefused) {
    for (size_t byte = sizeof(Version2); byte < sizeof(Version3); ++byte) {
        Caller<Version3> caller;
        reinterpret_cast<unsigned char *>(&caller.given)[byte] = 1;
        EXPECT_EQ(Input(caller.as_known()).status(), DWUNW_ERR_STRUCT_SIZE) << byte;
        EXPECT_EQ(Output(caller.as_known()).status(), DWUNW_ERR_STRUCT_SIZE) << byte;
    }
}

TEST(Sized, ASizeThatNoVersionHasIsRefused) {
    alignas(Version2) std::array<unsigned char, 2 * dwunw::kLargestStruct> bytes{};
    auto *given = reinterpret_cast<Version2 *>(bytes.data());
    for (const size_t size : {size_t{0}, size_t{1}, sizeof(Version0), sizeof(Version1) - 1, sizeof(Version1) + 1,
                              sizeof(Version2) + 2, dwunw::kLargestStruct + 4, size_t{UINT32_MAX}}) {
        given->size = static_cast<uint32_t>(size);
        EXPECT_EQ(Input(given).status(), DWUNW_ERR_STRUCT_SIZE) << size;
        EXPECT_EQ(Output(given).status(), DWUNW_ERR_STRUCT_SIZE) << size;
    }
    given->size = dwunw::kLargestStruct;
    EXPECT_EQ(Input(given).status(), DWUNW_OK);
}

TEST(Sized, NullIsRefusedOrMeansTheDefaults) {
    EXPECT_EQ(Input(nullptr).status(), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(Output(nullptr).status(), DWUNW_ERR_INVALID_ARGUMENT);
    const Input defaults(nullptr, dwunw::IfNull::kDefaults);
    ASSERT_EQ(defaults.status(), DWUNW_OK);
    EXPECT_EQ(defaults->first, 0u);
    EXPECT_EQ(defaults->second, 0u);
}

TEST(Sized, AnOlderOutputIsWrittenAsFarAsItReaches) {
    Caller<Version1> caller;
    caller.given.first = 1;
    {
        const Output output(caller.as_known());
        ASSERT_EQ(output.status(), DWUNW_OK);
        EXPECT_EQ(output->first, 1u) << "what the caller had is there to read";
        output->first = 7;
        output->second = 8;
    }
    EXPECT_EQ(caller.given.size, sizeof(Version1));
    EXPECT_EQ(caller.given.first, 7u);
    EXPECT_TRUE(caller.behind_is_untouched());
}

TEST(Sized, AnOutputOfTheSameOrANewerVersionIsWrittenInPlace) {
    Caller<Version2> same;
    EXPECT_EQ(&*Output(same.as_known()), &same.given);
    Caller<Version3> newer;
    {
        const Output output(newer.as_known());
        ASSERT_EQ(output.status(), DWUNW_OK);
        output->second = 8;
    }
    EXPECT_EQ(newer.given.size, sizeof(Version3));
    EXPECT_EQ(newer.given.second, 8u);
    EXPECT_EQ(newer.given.third, 0u);
    EXPECT_TRUE(newer.behind_is_untouched());
}

TEST(Sized, ARefusedOutputIsNotWritten) {
    Caller<Version0> caller;
    { const Output output(caller.as_known()); }
    EXPECT_EQ(caller.given.size, sizeof(Version0));
    EXPECT_TRUE(caller.behind_is_untouched());
}

template <typename Version> class SizedClear : public ::testing::Test {};
using Versions = ::testing::Types<Version1, Version2, Version3>;
TYPED_TEST_SUITE(SizedClear, Versions);

TYPED_TEST(SizedClear, LeavesTheCallersSize) {
    Caller<TypeParam> caller;
    caller.given.first = 7;
    {
        const Output output(caller.as_known());
        ASSERT_EQ(output.status(), DWUNW_OK);
        output.clear();
    }
    EXPECT_EQ(caller.given.size, sizeof(TypeParam));
    EXPECT_EQ(caller.given.first, 0u);
    EXPECT_TRUE(caller.behind_is_untouched());
}

} // namespace
