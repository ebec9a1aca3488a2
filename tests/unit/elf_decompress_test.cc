// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "elf/decompress.h"

#include <gtest/gtest.h>

#include <zlib.h>
#include <zstd.h>

#include <random>

namespace dwunw::elf {
namespace {

using Vector = std::vector<uint8_t>;

Vector plain_bytes(size_t size) {
    Vector plain(size);
    std::mt19937 random(1);
    for (uint8_t &byte : plain)
        byte = static_cast<uint8_t>(random() % 7);
    return plain;
}

Vector compressed(Compression method, const Vector &plain) {
    if (method == Compression::kZstd) {
        Vector out(ZSTD_compressBound(plain.size()));
        out.resize(ZSTD_compress(out.data(), out.size(), plain.data(), plain.size(), 3));
        return out;
    }
    uLongf size = ::compressBound(plain.size());
    Vector out(size);
    EXPECT_EQ(::compress(out.data(), &size, plain.data(), plain.size()), Z_OK);
    out.resize(size);
    return out;
}

class Decompress : public ::testing::TestWithParam<Compression> {};

TEST_P(Decompress, ExactlyThePlainBytesComeOut) {
    for (const size_t size : {1u, 100u, 100'000u}) {
        const Vector plain = plain_bytes(size);
        const auto result = decompress(GetParam(), compressed(GetParam(), plain), size);
        ASSERT_TRUE(result);
        EXPECT_EQ(*result, plain);
    }
    const auto nothing = decompress(GetParam(), {}, 0);
    ASSERT_TRUE(nothing);
    EXPECT_TRUE(nothing->empty());
}

TEST_P(Decompress, ASizeThatLies) {
    const Vector input = compressed(GetParam(), plain_bytes(1000));
    for (const uint64_t size : {uint64_t{1}, uint64_t{999}, uint64_t{1001}, uint64_t{100'000'000}}) {
        const auto result = decompress(GetParam(), input, size);
        ASSERT_FALSE(result) << size;
        EXPECT_EQ(result.error().status, DWUNW_ERR_ELF_MALFORMED);
        EXPECT_EQ(result.error().value, size);
    }
}

TEST_P(Decompress, AsDenseAsCanBe) {
    const Vector plain(10'000'000);
    const auto result = decompress(GetParam(), compressed(GetParam(), plain), plain.size());
    ASSERT_TRUE(result);
    EXPECT_EQ(*result, plain);
}

// Refused before memory is asked for: more than there is, and (found by fuzzing) a gigabyte for a handful of bytes.
TEST_P(Decompress, MoreThanTheInputCanExpandTo) {
    const Vector input = compressed(GetParam(), Vector(1000));
    for (const uint64_t size : {uint64_t{1} << 62, uint64_t{1} << 30}) {
        const auto result = decompress(GetParam(), input, size);
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().status, DWUNW_ERR_ELF_MALFORMED);
    }
}

TEST_P(Decompress, CutAnywhereIsRefused) {
    const Vector input = compressed(GetParam(), plain_bytes(1000));
    for (size_t size = 0; size < input.size(); ++size)
        EXPECT_FALSE(decompress(GetParam(), std::span(input).first(size), 1000)) << size;
}

TEST_P(Decompress, ChangedAnywhereIsRefusedOrBounded) {
    const Vector plain = plain_bytes(1000);
    const Vector input = compressed(GetParam(), plain);
    size_t refused = 0;
    for (size_t at = 0; at < input.size(); ++at) {
        Vector changed = input;
        changed[at] ^= 0x10;
        const auto result = decompress(GetParam(), changed, 1000);
        refused += !result;
        if (result) {
            EXPECT_EQ(result->size(), 1000u);
        }
    }
    EXPECT_GT(refused, 0u);
}

INSTANTIATE_TEST_SUITE_P(Methods, Decompress, ::testing::Values(Compression::kZlib, Compression::kZstd),
                         [](const auto &test) { return test.param == Compression::kZlib ? "Zlib" : "Zstd"; });

} // namespace
} // namespace dwunw::elf
