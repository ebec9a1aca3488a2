// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "symbolize/mini_debug.h"

#include "elf/image.h"
#include "support/elf_builder.h"
#include "support/peak_memory.h"
#include "support/xz.h"

#include <gtest/gtest.h>

#include <zlib.h>

#include <cstring>
#include <random>

namespace dwunw {
namespace {

using testing::ElfBuilder;
using testing::xz_of;
using Vector = std::vector<uint8_t>;

Vector bytes_of(const std::vector<Elf64_Sym> &symbols) {
    Vector bytes(symbols.size() * sizeof(Elf64_Sym));
    std::memcpy(bytes.data(), symbols.data(), bytes.size());
    return bytes;
}

Elf64_Sym symbol(uint32_t name, uint64_t value) {
    Elf64_Sym result{};
    result.st_name = name;
    result.st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC);
    result.st_shndx = 1;
    result.st_value = value;
    result.st_size = 16;
    return result;
}

// A file with a symbol table; its section header is open to change.
Vector file_with(const Vector &table, const Vector &strings, uint64_t flags = 0) {
    ElfBuilder builder;
    builder.add({".text", Vector(16), 0x1000});
    builder.add({".symtab", table, 0, flags, SHT_SYMTAB, 3});
    builder.add({".strtab", strings, 0, 0, SHT_STRTAB});
    return builder.build();
}

const Vector kStrings = {0, 'o', 'n', 'e', 0, 't', 'w', 'o', 0, 'c', 'u', 't'};

TEST(MiniDebug, SymbolsComeOutUnpacked) {
    const Vector file = file_with(bytes_of({symbol(1, 0x1000), symbol(5, 0x1008)}), kStrings);
    const auto unpacked = MiniDebug::unpack(xz_of(file));
    ASSERT_TRUE(unpacked);
    ASSERT_EQ(unpacked->symbols().size(), 2u);
    EXPECT_STREQ(unpacked->symbols()[0].name, "one");
    EXPECT_STREQ(unpacked->symbols()[1].name, "two");
    EXPECT_EQ(unpacked->symbols()[1].symbol.st_value, 0x1008u);
    EXPECT_EQ(unpacked->bytes(), file.size());
}

TEST(MiniDebug, NamesEndWithinTheirTable) {
    const Vector table = bytes_of({symbol(9, 0x1000), symbol(12, 0x1000), symbol(~0u, 0x1000), symbol(8, 0x1000)});
    const auto unpacked = MiniDebug::unpack(xz_of(file_with(table, kStrings)));
    ASSERT_TRUE(unpacked);
    ASSERT_EQ(unpacked->symbols().size(), 1u);
    EXPECT_STREQ(unpacked->symbols()[0].name, "");
}

TEST(MiniDebug, BytesThatAreNotXzOrNotElf) {
    const auto status = [](const Vector &packed) {
        const auto unpacked = MiniDebug::unpack(packed);
        return unpacked ? DWUNW_OK : unpacked.error().status;
    };
    const Vector good = xz_of(file_with(bytes_of({symbol(1, 0x1000)}), kStrings));
    EXPECT_EQ(status(good), DWUNW_OK);
    EXPECT_EQ(status({}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(status(xz_of(Vector(100, 'x'))), DWUNW_ERR_ELF_MALFORMED);
    Vector twice = good;
    twice.insert(twice.end(), good.begin(), good.end());
    EXPECT_EQ(status(twice), DWUNW_ERR_ELF_MALFORMED);
    for (size_t size = 0; size < good.size(); ++size)
        EXPECT_EQ(status({good.begin(), good.begin() + static_cast<ptrdiff_t>(size)}), DWUNW_ERR_ELF_MALFORMED);
}

// The index says what comes out; it is looked at first.
TEST(MiniDebug, ATooLargeFileIsNotUnpacked) {
    const Vector packed = xz_of(Vector(size_t{200} << 20));
    ASSERT_LT(packed.size(), size_t{64} << 10);
    const uint64_t grown = testing::peak_growth([&] {
        const auto unpacked = MiniDebug::unpack(packed);
        return !unpacked && unpacked.error().status == DWUNW_ERR_LIMIT;
    });
    EXPECT_LT(grown, uint64_t{8} << 20);
}

// An index that says less than comes out: the decoder has no room for more.
TEST(MiniDebug, AnIndexThatLies) {
    const Vector packed = xz_of(Vector(size_t{200} << 20));
    const Vector small = xz_of(Vector(1000));
    // The header and blocks of the one, index and footer of the other.
    lzma_stream_flags flags{};
    ASSERT_EQ(lzma_stream_footer_decode(&flags, small.data() + small.size() - LZMA_STREAM_HEADER_SIZE), LZMA_OK);
    Vector lying(packed.begin(), packed.end() - 40);
    lying.insert(lying.end(), small.end() - static_cast<ptrdiff_t>(flags.backward_size + LZMA_STREAM_HEADER_SIZE),
                 small.end());
    const uint64_t grown = testing::peak_growth([&] {
        const auto unpacked = MiniDebug::unpack(lying);
        return !unpacked;
    });
    EXPECT_LT(grown, uint64_t{8} << 20);
}

// The decoder takes its dictionary's size before the first byte comes out.
TEST(MiniDebug, ADictionaryThatIsTooLarge) {
    lzma_options_lzma options;
    ASSERT_FALSE(lzma_lzma_preset(&options, 0));
    const Vector plain = file_with({}, kStrings);
    const auto packed_with = [&](uint32_t dictionary) {
        options.dict_size = dictionary;
        lzma_filter filters[] = {{LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, nullptr}};
        Vector packed(lzma_stream_buffer_bound(plain.size()));
        size_t size = 0;
        EXPECT_EQ(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, nullptr, plain.data(), plain.size(),
                                            packed.data(), &size, packed.size()),
                  LZMA_OK);
        packed.resize(size);
        return packed;
    };
    EXPECT_TRUE(MiniDebug::unpack(packed_with(64u << 20)));
    const auto refused = MiniDebug::unpack(packed_with(256u << 20));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().status, DWUNW_ERR_LIMIT);
}

// Packed twice: what is inside is not unpacked again.
TEST(MiniDebug, ATableCompressedWithinIsNotRead) {
    const Vector plain(size_t{16} << 20);
    Vector inner(sizeof(Elf64_Chdr));
    const Elf64_Chdr header{ELFCOMPRESS_ZLIB, 0, plain.size(), 8};
    std::memcpy(inner.data(), &header, sizeof(header));
    uLongf size = ::compressBound(plain.size());
    Vector deflated(size);
    ASSERT_EQ(::compress(deflated.data(), &size, plain.data(), plain.size()), Z_OK);
    inner.insert(inner.end(), deflated.begin(), deflated.begin() + static_cast<ptrdiff_t>(size));
    const Vector packed = xz_of(file_with(inner, kStrings, SHF_COMPRESSED));
    const uint64_t grown = testing::peak_growth([&] {
        const auto unpacked = MiniDebug::unpack(packed);
        return unpacked && unpacked->symbols().empty();
    });
    EXPECT_LT(grown, uint64_t{8} << 20);
}

TEST(MiniDebug, DamageIsRefusedOrHarmless) {
    const Vector good = xz_of(file_with(bytes_of({symbol(1, 0x1000), symbol(5, 0x1008)}), kStrings));
    std::mt19937 random(1);
    size_t refused = 0;
    for (int round = 0; round < 2000; ++round) {
        Vector bytes = good;
        for (int change = 0; change < 3; ++change)
            bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
        refused += !MiniDebug::unpack(bytes);
    }
    EXPECT_GT(refused, 1900u); // it has checksums
}

} // namespace
} // namespace dwunw
