// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The rim of the C ABI: what a body throws comes out as a status, and what it returns as it is.
#include "abi/guarded.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace dwunw {
namespace {

TEST(Guarded, WhatTheBodyReturnsComesOut) {
    EXPECT_EQ(guarded([] { return DWUNW_OK; }), DWUNW_OK);
    EXPECT_EQ(guarded([] { return DWUNW_ERR_NO_CFI; }), DWUNW_ERR_NO_CFI);
}

TEST(Guarded, WithoutMemoryTheStatusSaysSo) {
    EXPECT_EQ(guarded([]() -> dwunw_status { throw std::bad_alloc(); }), DWUNW_ERR_OUT_OF_MEMORY);
}

// A size that no memory could hold, as a hostile file may claim.
TEST(Guarded, ASizeBeyondAllMemoryIsOutOfMemory) {
    const auto grow = []() -> dwunw_status {
        std::vector<uint64_t> words;
        words.resize(words.max_size() + 1);
        return DWUNW_OK;
    };
    EXPECT_EQ(guarded(grow), DWUNW_ERR_OUT_OF_MEMORY);
}

TEST(Guarded, ALockThatTheSystemRefusesIsAnIoError) {
    const auto refuse = []() -> dwunw_status {
        throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
    };
    EXPECT_EQ(guarded(refuse), DWUNW_ERR_IO);
}

} // namespace
} // namespace dwunw
