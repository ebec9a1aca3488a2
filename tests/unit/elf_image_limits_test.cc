// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// False numbers in ELF headers, and files that change while they are read.
#include "elf/image.h"

#include "process/file_source.h"
#include "support/elf_builder.h"
#include "support/peak_memory.h"

#include <gtest/gtest.h>

#include <zlib.h>
#include <zstd.h>

#include <functional>
#include <limits>

namespace dwunw::elf {
namespace {

using testing::ElfBuilder;
using Vector = std::vector<uint8_t>;

const Vector kFrames = {1, 2, 3, 4, 5};

Result<Image> parse(const Vector &file) { return Image::parse(MemorySource(file)); }

Elf64_Ehdr header_of(const Vector &file) {
    Elf64_Ehdr header;
    std::memcpy(&header, file.data(), sizeof(header));
    return header;
}

// Changes one program or section header of a file.
template <typename Header> void change(Vector &file, uint64_t at, const std::function<void(Header &)> &with) {
    Header header;
    std::memcpy(&header, file.data() + at, sizeof(header));
    with(header);
    std::memcpy(file.data() + at, &header, sizeof(header));
}
uint64_t section_header(const Vector &file, size_t index) {
    return header_of(file).e_shoff + index * sizeof(Elf64_Shdr);
}

TEST(ImageLimits, HeadersThatLie) {
    const auto with = [](const std::function<void(Elf64_Ehdr &)> &lie) {
        Vector file = ElfBuilder().add({".eh_frame", kFrames, 0x2000}).add_segment(PT_LOAD, PF_R, ".eh_frame").build();
        change(file, 0, lie);
        return parse(file);
    };
    EXPECT_FALSE(with([](Elf64_Ehdr &h) { h.e_phoff = ~uint64_t{0}; }));
    EXPECT_FALSE(with([](Elf64_Ehdr &h) { h.e_phentsize = 1; }));
    EXPECT_FALSE(with([](Elf64_Ehdr &h) { h.e_phnum = 60000; }));
    // Without section headers its segments still say enough.
    for (const auto &image :
         {with([](Elf64_Ehdr &h) { h.e_shoff = ~uint64_t{0} - 8; }), with([](Elf64_Ehdr &h) { h.e_shentsize = 1; }),
          with([](Elf64_Ehdr &h) { h.e_shnum = 0xfff0; }), with([](Elf64_Ehdr &h) { h.e_shstrndx = 0xfff0; }),
          with([](Elf64_Ehdr &h) { h.e_shstrndx = h.e_shnum; }), with([](Elf64_Ehdr &h) { h.e_shstrndx = 1; })}) {
        ASSERT_TRUE(image);
        EXPECT_EQ(image->load_segments().size(), 1u);
        EXPECT_TRUE(image->sections().empty());
    }
}

TEST(ImageLimits, SectionsThatLeaveTheFile) {
    const Vector good = ElfBuilder().add({".eh_frame", kFrames, 0x2000}).build();
    const auto read = [&](uint64_t offset, uint64_t size) {
        Vector file = good;
        change<Elf64_Shdr>(file, section_header(file, 1), [&](Elf64_Shdr &section) {
            section.sh_offset = offset;
            section.sh_size = size;
        });
        const MemorySource source(file);
        return Image::parse(source)->read_section(source, ".eh_frame");
    };
    const uint64_t end = good.size();
    EXPECT_TRUE(read(end - 5, 5));
    EXPECT_TRUE(read(0, end));
    for (const auto &[offset, size] : {std::pair{end - 5, uint64_t{6}},
                                       {end, uint64_t{1}},
                                       {end + 1, uint64_t{1}},
                                       {uint64_t{0}, end + 1},
                                       {~uint64_t{0}, uint64_t{1}},
                                       {~uint64_t{0} - 4, uint64_t{5}},
                                       {uint64_t{64}, kMaxSectionBytes}}) {
        const auto section = read(offset, size);
        ASSERT_FALSE(section) << offset << " " << size;
        EXPECT_EQ(section.error().status, DWUNW_ERR_ELF_MALFORMED);
        EXPECT_EQ(section.error().value, offset);
    }
    EXPECT_EQ(read(64, kMaxSectionBytes + 1).error().status, DWUNW_ERR_LIMIT);
    EXPECT_EQ(read(64, ~uint64_t{0}).error().status, DWUNW_ERR_LIMIT);
}

TEST(ImageLimits, SectionsThatOverlap) {
    Vector file = ElfBuilder().add({".text", Vector(8, 0x90), 0x1000}).add({".eh_frame", kFrames, 0x2000}).build();
    const uint64_t all = file.size();
    for (const size_t index : {1, 2})
        change<Elf64_Shdr>(file, section_header(file, index), [&](Elf64_Shdr &section) {
            section.sh_offset = 0;
            section.sh_size = all;
        });
    const MemorySource source(file);
    const auto image = Image::parse(source);
    ASSERT_TRUE(image);
    for (const char *name : {".text", ".eh_frame"})
        EXPECT_EQ((*image->read_section(source, name))->bytes, file) << name;
}

TEST(ImageLimits, NamesEndWithTheirTable) {
    Vector file = ElfBuilder().add({"." + std::string(299, 'x'), kFrames}).build();
    auto image = parse(file);
    ASSERT_TRUE(image);
    EXPECT_EQ(image->sections()[1].name.size(), 256u);
    // The table's last NUL is gone; another name begins where the table ends, and one far behind it.
    change<Elf64_Shdr>(file, section_header(file, 2), [](Elf64_Shdr &names) { --names.sh_size; });
    EXPECT_EQ(parse(file)->sections()[2].name, ".shstrtab");
    for (const uint32_t name : {312u, 100'000u, ~0u}) {
        change<Elf64_Shdr>(file, section_header(file, 1), [&](Elf64_Shdr &section) { section.sh_name = name; });
        EXPECT_EQ(parse(file)->sections()[1].name, "") << name;
    }
}

TEST(ImageLimits, MoreMemoryThanFile) {
    Vector file = ElfBuilder().add({".data", kFrames, 0x2000}).add_segment(PT_LOAD, PF_R, ".data").build();
    change<Elf64_Phdr>(file, sizeof(Elf64_Ehdr), [](Elf64_Phdr &segment) { segment.p_memsz = 0x1000; });
    const auto image = parse(file);
    ASSERT_TRUE(image);
    const FileOffset offset = image->load_segments()[0].offset;
    EXPECT_EQ(image->file_offset(LinkAddr(0x2004)), offset + 4);
    EXPECT_FALSE(image->file_offset(LinkAddr(0x2005))); // .bss
    EXPECT_NE(image->segment_of(LinkAddr(0x2fff)), nullptr);
}

// A segment that says it is longer than the file: .eh_frame is what there is of it.
TEST(ImageLimits, EhFrameInASegmentThatIsCut) {
    Vector both = {1, 0x1b, 0x03, 0x3b, 4, 0, 0, 0};
    both.insert(both.end(), kFrames.begin(), kFrames.end());
    ElfBuilder builder;
    builder.with_section_headers = false;
    builder.add({"both", both, 0x2000});
    builder.add_segment(PT_LOAD, PF_R, "both").add_segment(PT_GNU_EH_FRAME, PF_R, "both");
    Vector file = builder.build();
    change<Elf64_Phdr>(file, sizeof(Elf64_Ehdr), [](Elf64_Phdr &segment) { segment.p_filesz = 0x100000; });
    const size_t begin = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr) + 8;
    const MemorySource source(file);
    const auto frames = Image::parse(source)->read_eh_frame(source);
    ASSERT_TRUE(frames && *frames);
    EXPECT_EQ((*frames)->bytes, Vector(file.begin() + begin, file.end()));
    // The segment is said to begin behind the file's end.
    change<Elf64_Phdr>(file, sizeof(Elf64_Ehdr), [&](Elf64_Phdr &segment) { segment.p_offset = file.size() + 1; });
    const MemorySource other(file);
    EXPECT_EQ(Image::parse(other)->read_eh_frame(other).error().status, DWUNW_ERR_ELF_MALFORMED);
}

// The file is truncated between two reads: its size has changed.
TEST(ImageLimits, AFileThatShrinks) {
    class Shrinking final : public ByteSource {
      public:
        explicit Shrinking(const Vector &file) : file_(file), size_(file.size()) {}
        uint64_t size() const override { return size_; }
        size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
            return MemorySource(std::span(file_).first(left)).read(offset, buffer);
        }
        size_t left = std::numeric_limits<size_t>::max();

      private:
        const Vector &file_;
        size_t size_;
    };
    const Vector file = ElfBuilder().add({".eh_frame", kFrames, 0x2000}).build();
    Shrinking source(file);
    source.left = file.size();
    const auto image = Image::parse(source);
    ASSERT_TRUE(image);
    source.left = sizeof(Elf64_Ehdr) + 2;
    const auto frames = image->read_section(source, ".eh_frame");
    ASSERT_FALSE(frames);
    EXPECT_EQ(frames.error().status, DWUNW_ERR_IO);
    EXPECT_EQ(frames.error().value, sizeof(Elf64_Ehdr));
    EXPECT_EQ(Image::parse(source).error().status, DWUNW_ERR_IO);
}

TEST(ImageLimits, ExtendedNumberingIsFollowedWithinLimits) {
    // More sections than 16 bits count: the number and the names' index are in section 0.
    Vector file = ElfBuilder().add({".eh_frame", kFrames, 0x2000}).build();
    Elf64_Ehdr header;
    const auto parse_with = [&](const Elf64_Shdr &first) {
        std::memcpy(file.data(), &header, sizeof(header));
        std::memcpy(file.data() + header.e_shoff, &first, sizeof(first));
        return parse(file);
    };
    std::memcpy(&header, file.data(), sizeof(header));
    Elf64_Shdr first{};
    first.sh_size = header.e_shnum;
    first.sh_link = header.e_shstrndx;
    uint16_t count = std::exchange(header.e_shnum, 0); // each by itself, too
    uint16_t names = std::exchange(header.e_shstrndx, SHN_XINDEX);
    EXPECT_EQ(parse_with(first)->sections().size(), 3u);
    std::swap(header.e_shnum, count);
    EXPECT_EQ(parse_with(first)->sections().size(), 3u);
    std::swap(header.e_shnum, count);
    std::swap(header.e_shstrndx, names);
    EXPECT_EQ(parse_with(first)->sections().size(), 3u);
    first.sh_size = 1000; // more than the file holds
    EXPECT_FALSE(parse_with(first));

    ElfBuilder many;
    many.add({".text", Vector(16), 0x1000});
    for (const uint32_t flags : {PF_R, PF_R | PF_X, PF_R | PF_W})
        many.add_segment(PT_LOAD, flags, ".text");
    file = many.build();
    std::memcpy(&header, file.data(), sizeof(header));
    first = {};
    first.sh_info = header.e_phnum;
    header.e_phnum = PN_XNUM;
    EXPECT_EQ(parse_with(first)->load_segments().size(), 3u);
    first.sh_info = kMaxProgramHeaders + 1;
    EXPECT_FALSE(parse_with(first));
}

// Found by fuzzing: an address's file offset was one that lies in no segment.
TEST(ImageLimits, SegmentsThatWrapAround) {
    ElfBuilder builder;
    builder.add({".text", Vector(16), 0x1000}).add_segment(PT_LOAD, PF_R, ".text");
    const Vector file = builder.build();
    ASSERT_TRUE(Image::parse(MemorySource(file)));
    for (const size_t field : {offsetof(Elf64_Phdr, p_offset), offsetof(Elf64_Phdr, p_vaddr)}) {
        Vector wrapping = file;
        const uint64_t last = ~uint64_t{0} - 7;
        std::memcpy(wrapping.data() + sizeof(Elf64_Ehdr) + field, &last, sizeof(last));
        const auto image = Image::parse(MemorySource(wrapping));
        ASSERT_FALSE(image);
        EXPECT_EQ(image.error().status, DWUNW_ERR_ELF_MALFORMED);
    }
}

// A million headers may name the same megabyte of notes: the bytes read for them are still bounded.
TEST(ImageLimits, NotesWithoutEnd) {
    class Counting final : public ByteSource {
      public:
        explicit Counting(const Vector &file) : file_(file) {}
        uint64_t size() const override { return file_.size(); }
        size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
            bytes_read += buffer.size();
            return file_.read(offset, buffer);
        }
        MemorySource file_;
        mutable uint64_t bytes_read = 0;
    };
    ElfBuilder builder;
    builder.add({".long", Vector(600 << 10)}).add({".id", testing::note("GNU", NT_GNU_BUILD_ID, {7}), 0, 0, SHT_NOTE});
    for (size_t i = 0; i < 500; ++i)
        builder.add_segment(PT_NOTE, PF_R, ".long");
    const Vector file = builder.build();
    const Counting source(file);
    const auto image = Image::parse(source);
    ASSERT_TRUE(image);
    EXPECT_EQ(image->build_id(), Vector{7});
    EXPECT_LT(source.bytes_read, 2u << 20);
}

Vector deflated(const Vector &plain) {
    uLongf size = ::compressBound(plain.size());
    Vector out(size);
    EXPECT_EQ(::compress(out.data(), &size, plain.data(), plain.size()), Z_OK);
    out.resize(size);
    return out;
}

// A file with one compressed section, whose header says that it becomes `size` bytes.
Vector compressed_file(const std::string &name, uint32_t method, uint64_t size, const Vector &packed) {
    const Elf64_Chdr header{method, 0, size, 8};
    Vector bytes(sizeof(header));
    std::memcpy(bytes.data(), &header, sizeof(header));
    bytes.insert(bytes.end(), packed.begin(), packed.end());
    return ElfBuilder().add({name, bytes, 0x2000, SHF_COMPRESSED}).build();
}

constexpr uint32_t kZstd = 2; // ELFCOMPRESS_ZSTD

// 200 KB were a gigabyte, and 762 KB more than four: what a section may become is known from what it takes in the file.
TEST(ImageLimits, ASectionThatExpandsIsNotUnpacked) {
    const Vector plain(size_t{200} << 20);
    Vector zstd(ZSTD_compressBound(plain.size()));
    zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), plain.data(), plain.size(), 1));
    for (const char *name : {".debug_frame", ".eh_frame"})
        for (const auto &[method, packed] : {std::pair(uint32_t{ELFCOMPRESS_ZLIB}, deflated(plain)), {kZstd, zstd}}) {
            const Vector file = compressed_file(name, method, plain.size(), packed);
            ASSERT_LT(file.size(), size_t{210} << 10);
            const auto source = std::make_shared<const MemorySource>(file);
            const uint64_t grown = testing::peak_growth([&, name = name] {
                const auto image = Image::parse(*source);
                const auto limit = [](const auto &result) { return result.error().status == DWUNW_ERR_LIMIT; };
                return image && !image->read_section(*source, name) && limit(image->read_section(*source, name)) &&
                       limit(image->section_size(*source, name)) &&
                       (name[1] == 'd' ||
                        (limit(image->read_eh_frame(*source)) && limit(image->open_eh_frame(source))));
            });
            EXPECT_LT(grown, uint64_t{4} << 20);
        }
}

TEST(ImageLimits, SizesOfUnpackedSections) {
    static_assert(expanded_limit(0) == kSmallExpanded);
    static_assert(expanded_limit(kSmallExpanded) == kMaxExpansion * kSmallExpanded);
    static_assert(expanded_limit(~uint64_t{0}) == kMaxSectionBytes);
    // A small one may be as dense as it likes.
    const Vector small(kSmallExpanded);
    Vector file = compressed_file(".debug_frame", ELFCOMPRESS_ZLIB, small.size(), deflated(small));
    auto section = Image::parse(MemorySource(file))->read_section(MemorySource(file), ".debug_frame");
    ASSERT_TRUE(section && *section);
    EXPECT_EQ((*section)->bytes, small);
    const Vector more(kSmallExpanded + 1);
    file = compressed_file(".debug_frame", ELFCOMPRESS_ZLIB, more.size(), deflated(more));
    section = Image::parse(MemorySource(file))->read_section(MemorySource(file), ".debug_frame");
    ASSERT_FALSE(section);
    EXPECT_EQ(section.error().status, DWUNW_ERR_LIMIT);
    EXPECT_EQ(section.error().value, more.size());
}

// One that says less than it holds is refused once it has filled what it said.
TEST(ImageLimits, AHeaderThatSaysLess) {
    const Vector plain(size_t{200} << 20);
    const Vector file = compressed_file(".debug_frame", ELFCOMPRESS_ZLIB, kSmallExpanded, deflated(plain));
    const uint64_t grown = testing::peak_growth([&] {
        const auto section = Image::parse(MemorySource(file))->read_section(MemorySource(file), ".debug_frame");
        return !section && section.error().status == DWUNW_ERR_ELF_MALFORMED;
    });
    EXPECT_LT(grown, uint64_t{4} << 20);
}

// What .eh_frame and .debug_frame compress to in real files, and how far that is from the limit.
TEST(ImageLimits, RealSectionsExpandFarLess) {
    const auto source = process::FileSource::open("/lib/x86_64-linux-gnu/libstdc++.so.6");
    ASSERT_TRUE(source);
    const auto image = Image::parse(*source);
    ASSERT_TRUE(image);
    const auto frames = image->read_eh_frame(*source);
    ASSERT_TRUE(frames && *frames);
    EXPECT_LT((*frames)->bytes.size(), deflated((*frames)->bytes).size() * (kMaxExpansion / 4));
}

} // namespace
} // namespace dwunw::elf
