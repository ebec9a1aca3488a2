// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "symbolize/symbol_image.h"

#include "support/elf_builder.h"
#include "support/peak_memory.h"

#include <gtest/gtest.h>

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

namespace dwunw {
namespace {

using testing::ElfBuilder;
using Vector = std::vector<uint8_t>;

constexpr uint64_t kPlenty = uint64_t{1} << 40;

Result<SymbolImage> make(const ByteSource &source, uint64_t budget = kPlenty) {
    Budget bytes(budget);
    return SymbolImage::make(source, bytes);
}

ElfBuilder builder_with(uint32_t table_type) {
    ElfBuilder builder;
    builder.add({".text", Vector(0x100, 0x90), 0x1000, SHF_ALLOC | SHF_EXECINSTR});
    builder.add({".table", Vector(48, 1), 0, 0, table_type, 3});
    builder.add({".strings", Vector(100, 2), 0, 0, SHT_STRTAB});
    builder.add({".gnu_debugdata", Vector(7, 3), 0, 0});
    builder.add({".comment", Vector(50, 4), 0, 0});
    builder.add({".note", testing::note("GNU", NT_GNU_BUILD_ID, {7, 8, 9}), 0, 0, SHT_NOTE});
    builder.add_segment(PT_LOAD, PF_R | PF_X, ".text");
    return builder;
}

// The section headers of a file in memory.
std::vector<Elf64_Shdr> headers_of(const Vector &file) {
    Elf64_Ehdr header;
    std::memcpy(&header, file.data(), sizeof(header));
    std::vector<Elf64_Shdr> result(header.e_shnum);
    std::memcpy(result.data(), file.data() + header.e_shoff, result.size() * sizeof(Elf64_Shdr));
    return result;
}

void change_section(Vector &file, size_t index, const std::function<void(Elf64_Shdr &)> &change) {
    Elf64_Ehdr header;
    std::memcpy(&header, file.data(), sizeof(header));
    Elf64_Shdr section;
    uint8_t *place = file.data() + header.e_shoff + index * sizeof(section);
    std::memcpy(&section, place, sizeof(section));
    change(section);
    std::memcpy(place, &section, sizeof(section));
}

TEST(SymbolImage, HasTheTablesAndWhereThingsLie) {
    for (const uint32_t type : {SHT_SYMTAB, SHT_DYNSYM}) {
        const Vector file = builder_with(type).build();
        const auto made = make(MemorySource(file));
        ASSERT_TRUE(made);
        const auto sections = headers_of(made->bytes);
        ASSERT_EQ(sections.size(), 10u); // 0, six, .shstrtab, a note, names
        EXPECT_EQ(sections[1].sh_type, uint32_t{SHT_NOBITS});
        EXPECT_EQ(sections[1].sh_addr, 0x1000u);
        EXPECT_EQ(sections[1].sh_size, 0x100u);
        EXPECT_EQ(sections[2].sh_type, type);
        EXPECT_EQ(sections[2].sh_link, 3u);
        EXPECT_EQ(std::count(made->bytes.begin(), made->bytes.end(), 1) >= 48, true);
        for (const size_t i : {size_t{2}, size_t{3}}) {
            const auto original = headers_of(file)[i];
            ASSERT_EQ(sections[i].sh_size, original.sh_size);
            EXPECT_EQ(std::memcmp(made->bytes.data() + sections[i].sh_offset, file.data() + original.sh_offset,
                                  original.sh_size),
                      0);
        }
        for (const size_t i : {size_t{4}, size_t{5}, size_t{6}, size_t{7}})
            EXPECT_EQ(sections[i].sh_type, uint32_t{SHT_NOBITS}) << i;
        const auto image = elf::Image::parse(MemorySource(made->bytes));
        ASSERT_TRUE(image);
        EXPECT_EQ(image->build_id(), (Vector{7, 8, 9}));
        EXPECT_EQ(image->load_segments().size(), 1u);
        // .symtab says all that the other could.
        EXPECT_EQ(made->debugdata, type == SHT_SYMTAB ? Vector() : Vector(7, 3));
        EXPECT_EQ(made->share.bytes(), type == SHT_SYMTAB ? 148u : 155u);
    }
}

TEST(SymbolImage, AFileWithoutSectionHeadersIsCopied) {
    ElfBuilder builder = builder_with(SHT_DYNSYM);
    builder.with_section_headers = false;
    const Vector file = builder.build();
    const auto made = make(MemorySource(file));
    ASSERT_TRUE(made);
    EXPECT_EQ(made->bytes, file);
    EXPECT_EQ(make(MemorySource(file), file.size() - 1).error().status, DWUNW_ERR_LIMIT);
}

// Unusable section headers are not left for libelf to believe.
TEST(SymbolImage, UnusableSectionHeadersAreTakenOut) {
    Vector file = builder_with(SHT_DYNSYM).build();
    const uint16_t none = 0xfff0;
    std::memcpy(file.data() + offsetof(Elf64_Ehdr, e_shstrndx), &none, sizeof(none));
    const auto made = make(MemorySource(file));
    ASSERT_TRUE(made);
    Elf64_Ehdr header;
    std::memcpy(&header, made->bytes.data(), sizeof(header));
    EXPECT_EQ(header.e_shoff, 0u);
    EXPECT_EQ(header.e_shnum, 0u);
}

TEST(SymbolImage, MissingAndTooLargeTables) {
    const Vector good = builder_with(SHT_SYMTAB).build();
    const auto with = [&](size_t index, const std::function<void(Elf64_Shdr &)> &change) {
        Vector file = good;
        change_section(file, index, change);
        const auto made = make(MemorySource(file));
        return made ? DWUNW_OK : made.error().status;
    };
    EXPECT_EQ(with(2, [](Elf64_Shdr &s) { s.sh_size = uint64_t{1} << 40; }), DWUNW_ERR_LIMIT);
    EXPECT_EQ(with(3, [](Elf64_Shdr &s) { s.sh_size = SymbolImage::kMaxTableBytes; }), DWUNW_ERR_LIMIT);
    EXPECT_EQ(with(3, [](Elf64_Shdr &s) { s.sh_size = 1 << 20; }), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with(2, [](Elf64_Shdr &s) { s.sh_offset = ~uint64_t{0}; }), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with(2, [](Elf64_Shdr &s) { s.sh_flags |= SHF_COMPRESSED; }), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with(3, [](Elf64_Shdr &s) { s.sh_flags |= SHF_COMPRESSED; }), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with(2, [](Elf64_Shdr &s) { s.sh_link = 77; }), DWUNW_OK);
    // What no name is read from may say what it likes.
    EXPECT_EQ(with(5, [](Elf64_Shdr &s) { s.sh_size = uint64_t{1} << 60; }), DWUNW_OK);
    EXPECT_EQ(make(MemorySource(good), 147).error().status, DWUNW_ERR_LIMIT);
    EXPECT_TRUE(make(MemorySource(good), 148));
    ElfBuilder no_segment = builder_with(SHT_SYMTAB);
    no_segment.segments.clear();
    EXPECT_EQ(make(MemorySource(no_segment.build())).error().status, DWUNW_ERR_ELF_MALFORMED);
}

// A sparse file: a header, and as much of nothing as it takes.
class SparseSource final : public ByteSource {
  public:
    SparseSource(Vector head, uint64_t size) : head_(std::move(head)), size_(size) {}
    uint64_t size() const override { return size_; }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
        if (offset.value >= size_)
            return 0;
        const size_t count = std::min<uint64_t>(buffer.size(), size_ - offset.value);
        std::fill_n(buffer.begin(), count, 0);
        MemorySource(head_).read(offset, buffer);
        return count;
    }

  private:
    Vector head_;
    uint64_t size_;
};

// libelf keeps 200 bytes for each section, of which a sparse file may have any number.
TEST(SymbolImage, AMillionSections) {
    Vector head = builder_with(SHT_SYMTAB).build();
    Elf64_Ehdr header;
    std::memcpy(&header, head.data(), sizeof(header));
    const uint16_t count = 0;
    std::memcpy(head.data() + offsetof(Elf64_Ehdr, e_shnum), &count, sizeof(count));
    for (const auto &[number, expected] : {std::pair(uint64_t{SymbolImage::kMaxSections} + 1, DWUNW_ERR_LIMIT),
                                           {uint64_t{1'000'000}, DWUNW_OK}, // unusable: as if there were none
                                           {uint64_t{20'000'000}, DWUNW_ERR_LIMIT}}) {
        Elf64_Shdr first{};
        first.sh_size = number;
        std::memcpy(head.data() + header.e_shoff, &first, sizeof(first));
        const SparseSource source(head, header.e_shoff + number * sizeof(Elf64_Shdr));
        const uint64_t grown = testing::peak_growth([&] {
            const auto made = make(source);
            return (made ? DWUNW_OK : made.error().status) == expected;
        });
        EXPECT_LT(grown, SymbolImage::kMaxCopiedImage + (uint64_t{4} << 20));
    }
}

} // namespace
} // namespace dwunw
