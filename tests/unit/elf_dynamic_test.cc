// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "elf/dynamic.h"

#include "support/elf_builder.h"

#include <gtest/gtest.h>

namespace dwunw::elf {
namespace {

constexpr uint64_t kStringsAt = 0x5000;

class DynamicTest : public ::testing::Test {
  protected:
    uint64_t string(const std::string &text) {
        const uint64_t at = strings_.size();
        strings_ += text + '\0';
        return at;
    }
    void entry(int64_t tag, uint64_t value) {
        Elf64_Dyn made{};
        made.d_tag = tag;
        made.d_un.d_val = value;
        const auto *bytes = reinterpret_cast<const uint8_t *>(&made);
        entries_.insert(entries_.end(), bytes, bytes + sizeof(made));
    }
    Dynamic read() {
        testing::ElfBuilder elf;
        elf.add({".dynstr", {strings_.begin(), strings_.end()}, kStringsAt});
        elf.add({".dynamic", entries_, 0x6000, SHF_ALLOC, SHT_DYNAMIC});
        elf.add_segment(PT_LOAD, PF_R, ".dynstr");
        const std::vector<uint8_t> file = elf.build();
        const MemorySource source(file);
        const auto image = Image::parse(source);
        EXPECT_TRUE(image);
        return image ? read_dynamic(*image, source) : Dynamic{};
    }

    std::string strings_ = std::string(1, '\0');
    std::vector<uint8_t> entries_;
};

TEST_F(DynamicTest, NamesOfALibraryAndOfItsNeededLibraries) {
    entry(DT_NEEDED, string("libm.so.6"));
    entry(DT_NEEDED, string("libc.so.6"));
    entry(DT_SONAME, string("libown.so.1"));
    entry(DT_STRTAB, kStringsAt);
    entry(DT_NULL, 0);
    entry(DT_NEEDED, string("behind the end"));
    const Dynamic names = read();
    EXPECT_EQ(names.name, "libown.so.1");
    EXPECT_EQ(names.needed, (std::vector<std::string>{"libm.so.6", "libc.so.6"}));
    EXPECT_TRUE(names.whole);
}

TEST_F(DynamicTest, UnreadableNamesAreMissing) {
    entry(DT_NEEDED, uint64_t{1} << 60);
    entry(DT_STRTAB, kStringsAt);
    EXPECT_FALSE(read().whole);
    entries_.clear();
    entry(DT_NEEDED, string("libc.so.6"));
    EXPECT_FALSE(read().whole) << "no strings";
    entry(DT_STRTAB, 0x123456789);
    EXPECT_FALSE(read().whole) << "strings nowhere";
    entries_.clear();
    entry(DT_SONAME, string(std::string(kMaxLibraryName + 1, 'x')));
    entry(DT_STRTAB, kStringsAt);
    EXPECT_FALSE(read().whole) << "a name without an end";
    entries_.clear();
    EXPECT_TRUE(read().whole) << "an empty section needs nothing";
    const std::vector<uint8_t> file = testing::ElfBuilder().build();
    const MemorySource source(file);
    EXPECT_FALSE(read_dynamic(*Image::parse(source), source).whole) << "no section";
}

} // namespace
} // namespace dwunw::elf
