// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Packs bytes with xz, as in .gnu_debugdata.
#pragma once

#include <gtest/gtest.h>

#include <lzma.h>

#include <cstdint>
#include <span>
#include <vector>

namespace dwunw::testing {

inline std::vector<uint8_t> xz_of(std::span<const uint8_t> plain, uint32_t preset = 1) {
    std::vector<uint8_t> packed(lzma_stream_buffer_bound(plain.size()));
    size_t size = 0;
    EXPECT_EQ(lzma_easy_buffer_encode(preset, LZMA_CHECK_CRC32, nullptr, plain.data(), plain.size(), packed.data(),
                                      &size, packed.size()),
              LZMA_OK);
    packed.resize(size);
    return packed;
}
inline std::vector<uint8_t> xz_of(std::initializer_list<uint8_t> plain) {
    return xz_of(std::span(plain.begin(), plain.size()));
}

} // namespace dwunw::testing
