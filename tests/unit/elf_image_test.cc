// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// ELF files made for the test, real ones, and files that are cut or changed at any place.
#include "elf/image.h"

#include "process/file_source.h"
#include "support/elf_builder.h"

#include <gtest/gtest.h>

#include <zlib.h>
#include <zstd.h>

#include <random>

namespace dwunw::elf {
namespace {

using testing::ElfBuilder;
using Vector = std::vector<uint8_t>;

Result<Image> parse(const Vector &file) { return Image::parse(MemorySource(file)); }

Image good(const Vector &file) {
    auto image = parse(file);
    EXPECT_TRUE(image);
    return image ? *image : Image();
}

const Vector kFrames = {1, 2, 3, 4, 5};

TEST(Image, HeadersSectionsAndSegments) {
    ElfBuilder builder;
    builder.header.e_entry = 0x1234;
    builder.add({".text", Vector(64, 0x90), 0x1000, SHF_ALLOC | SHF_EXECINSTR})
        .add({".got", Vector(8), 0x3000})
        .add({".eh_frame", kFrames, 0x2000})
        .add_segment(PT_LOAD, PF_R | PF_X, ".text")
        .add_segment(PT_LOAD, PF_R, ".eh_frame");
    const Vector file = builder.build();
    const Image image = good(file);
    EXPECT_EQ(image.machine(), EM_X86_64);
    EXPECT_EQ(image.type(), ET_DYN);
    EXPECT_EQ(image.entry(), LinkAddr(0x1234));
    EXPECT_EQ(image.text_base(), LinkAddr(0x1000));
    EXPECT_EQ(image.data_base(), LinkAddr(0x3000));
    ASSERT_EQ(image.sections().size(), 5u);
    EXPECT_EQ(image.sections()[1].name, ".text");
    EXPECT_EQ(image.sections()[1].size, 64u);
    ASSERT_EQ(image.load_segments().size(), 2u);

    const FileOffset text = image.sections()[1].offset;
    EXPECT_EQ(image.segment_of(LinkAddr(0x103f)), &image.load_segments()[0]);
    EXPECT_EQ(image.segment_of(LinkAddr(0x1040)), nullptr);
    EXPECT_EQ(image.segment_of(text), &image.load_segments()[0]);
    EXPECT_EQ(image.segment_of(text + 63), &image.load_segments()[0]);
    EXPECT_EQ(image.segment_of(text + 64), nullptr);
    EXPECT_EQ(image.segment_of(text - 1), nullptr);
    EXPECT_EQ(image.file_offset(LinkAddr(0x1001)), text + 1);
    EXPECT_FALSE(image.file_offset(LinkAddr(0x5000)));
    EXPECT_TRUE(image.is_executable(LinkAddr(0x1000)));
    EXPECT_FALSE(image.is_executable(LinkAddr(0x2000)));
    EXPECT_FALSE(image.is_executable(LinkAddr(0x9000)));

    auto frames = image.read_section(MemorySource(file), ".eh_frame");
    ASSERT_TRUE(frames && *frames);
    EXPECT_EQ((*frames)->bytes, kFrames);
    EXPECT_EQ((*frames)->address, LinkAddr(0x2000));
    frames = image.read_section(MemorySource(file), ".debug_frame");
    ASSERT_TRUE(frames);
    EXPECT_FALSE(*frames);
}

TEST(Image, ASectionWithoutBytesIsAbsent) {
    const ElfBuilder::Section in_debug_file = {".eh_frame", Vector(16), 0x2000, SHF_ALLOC, SHT_NOBITS};
    const ElfBuilder::Section empty = {".eh_frame", {}, 0x2000};
    for (const ElfBuilder::Section &section : {in_debug_file, empty}) {
        const Vector file = ElfBuilder().add(section).build();
        auto frames = good(file).read_section(MemorySource(file), ".eh_frame");
        ASSERT_TRUE(frames);
        EXPECT_FALSE(*frames);
    }
}

// Its PT_GNU_EH_FRAME leads to where the program has the section, and this file has something else.
TEST(Image, ASeparateDebugFileHasNoEhFrame) {
    const Vector file = ElfBuilder()
                            .add({".eh_frame", Vector(16), 0x2000, SHF_ALLOC, SHT_NOBITS})
                            .add({".eh_frame_hdr", Vector(8), 0x1000, SHF_ALLOC, SHT_NOBITS})
                            .add_segment(PT_LOAD, PF_R, ".eh_frame")
                            .add_segment(PT_GNU_EH_FRAME, PF_R, ".eh_frame_hdr")
                            .build();
    auto frames = good(file).read_eh_frame(MemorySource(file));
    ASSERT_TRUE(frames);
    EXPECT_FALSE(*frames);
}

TEST(Image, BuildIdIsFoundInEitherNote) {
    const Vector id(64, 0xde);
    for (const bool in_section : {true, false}) {
        ElfBuilder builder;
        Vector notes = testing::note("CORE", NT_GNU_BUILD_ID, {1});                       // another owner's
        for (const Vector &more : {testing::note("GNU", NT_GNU_ABI_TAG, {1, 2, 3, 4, 5}), // padded to 4
                                   testing::note("GNU", NT_GNU_BUILD_ID, id)})
            notes.insert(notes.end(), more.begin(), more.end());
        builder.add({".note", notes, 0x100, SHF_ALLOC, in_section ? uint32_t{SHT_NOTE} : uint32_t{SHT_PROGBITS}});
        if (!in_section)
            builder.add_segment(PT_NOTE, PF_R, ".note");
        EXPECT_EQ(good(builder.build()).build_id(), id);
    }
    for (const Vector &bad :
         {testing::note("GNU", NT_GNU_BUILD_ID, {}), testing::note("GNU", NT_GNU_BUILD_ID, Vector(65)),
          Vector{4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 3, 0, 0, 0, 'G', 'N', 'U', 0}}) {
        ElfBuilder builder;
        builder.add({".note", bad, 0, 0, SHT_NOTE});
        EXPECT_TRUE(good(builder.build()).build_id().empty());
    }
}

Vector zlib_bytes(const Vector &plain) {
    uLongf size = ::compressBound(plain.size());
    Vector out(size);
    EXPECT_EQ(::compress(out.data(), &size, plain.data(), plain.size()), Z_OK);
    out.resize(size);
    return out;
}

Vector with_header(uint32_t type, uint64_t size, const Vector &compressed) {
    Elf64_Chdr header{};
    header.ch_type = type;
    header.ch_size = size;
    header.ch_addralign = 8;
    Vector out(sizeof(header));
    std::memcpy(out.data(), &header, sizeof(header));
    out.insert(out.end(), compressed.begin(), compressed.end());
    return out;
}

TEST(Image, CompressedSectionsAreUnpacked) {
    Vector plain(5000);
    for (size_t i = 0; i < plain.size(); ++i)
        plain[i] = static_cast<uint8_t>(i / 100);
    Vector zstd(ZSTD_compressBound(plain.size()));
    zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), plain.data(), plain.size(), 3));
    Vector gnu = {'Z', 'L', 'I', 'B', 0, 0, 0, 0, 0, 0, 0x13, 0x88}; // 5000, big-endian
    const Vector deflated = zlib_bytes(plain);
    gnu.insert(gnu.end(), deflated.begin(), deflated.end());
    const auto read = [](const std::string &name, const Vector &bytes, uint64_t flags) {
        ElfBuilder builder;
        builder.add({name, bytes, 0, flags});
        const Vector file = builder.build();
        return good(file).read_section(MemorySource(file), ".debug_frame");
    };
    for (const auto &section :
         {read(".debug_frame", with_header(ELFCOMPRESS_ZLIB, plain.size(), deflated), SHF_COMPRESSED),
          read(".debug_frame", with_header(2, plain.size(), zstd), SHF_COMPRESSED), read(".zdebug_frame", gnu, 0)}) {
        ASSERT_TRUE(section && *section);
        EXPECT_EQ((*section)->bytes, plain);
    }
    const auto refused = [&](const Vector &bytes) {
        const auto section = read(".debug_frame", bytes, SHF_COMPRESSED);
        EXPECT_FALSE(section);
        return section ? DWUNW_OK : section.error().status;
    };
    EXPECT_EQ(refused(with_header(77, plain.size(), deflated)), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(refused(with_header(ELFCOMPRESS_ZLIB, plain.size() + 1, deflated)), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(refused(with_header(ELFCOMPRESS_ZLIB, kMaxSectionBytes + 1, deflated)), DWUNW_ERR_LIMIT);
    EXPECT_EQ(refused({1, 0, 0}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(refused({ELFCOMPRESS_ZLIB, 0, 0, 0, 0, 0, 0, 0, 5}), DWUNW_ERR_ELF_MALFORMED);
    gnu[3] = 'X';
    EXPECT_FALSE(read(".zdebug_frame", gnu, 0));
    EXPECT_FALSE(read(".zdebug_frame", {'Z', 'L', 'I'}, 0));
}

// As objcopy -R .eh_frame -R .eh_frame_hdr leaves it: a program header for a section that is gone.
TEST(Image, AProgramHeaderWithoutItsEhFrameHdr) {
    for (const bool empty : {true, false}) {
        ElfBuilder builder;
        builder.add({".text", Vector(64, 0x90), 0x1000, SHF_ALLOC | SHF_EXECINSTR});
        builder.add({".gone", Vector(empty ? 0 : 16), 0x3000, 0});
        builder.add_segment(PT_LOAD, PF_R | PF_X, ".text").add_segment(PT_GNU_EH_FRAME, PF_R, ".gone");
        const Vector file = builder.build();
        const auto frames = good(file).read_eh_frame(MemorySource(file));
        ASSERT_TRUE(frames);
        EXPECT_FALSE(*frames);
        const auto opened = good(file).open_eh_frame(std::make_shared<const MemorySource>(file));
        ASSERT_TRUE(opened);
        EXPECT_FALSE(*opened);
    }
    // The header is there, and what it points to is not.
    ElfBuilder builder;
    builder.add({".eh_frame_hdr", {1, 0x1b, 0x03, 0x3b, 0x40, 0, 0, 0}, 0x2000});
    builder.add_segment(PT_LOAD, PF_R, ".eh_frame_hdr").add_segment(PT_GNU_EH_FRAME, PF_R, ".eh_frame_hdr");
    const Vector file = builder.build();
    const auto frames = good(file).read_eh_frame(MemorySource(file));
    ASSERT_TRUE(frames);
    EXPECT_FALSE(*frames);
}

// .eh_frame of a file whose section headers are gone, found through PT_GNU_EH_FRAME.
TEST(Image, EhFrameWithoutSectionHeaders) {
    const auto file_with = [](uint8_t version, uint8_t encoding, int32_t distance) {
        Vector header = {version, encoding, 0x03, 0x3b};
        for (int i = 0; i < 4; ++i)
            header.push_back(static_cast<uint8_t>(static_cast<uint32_t>(distance) >> (8 * i)));
        ElfBuilder builder;
        builder.with_section_headers = false;
        Vector both = header; // one segment holds .eh_frame_hdr and .eh_frame
        both.insert(both.end(), kFrames.begin(), kFrames.end());
        builder.add({"both", both, 0x2000});
        builder.add_segment(PT_LOAD, PF_R, "both").add_segment(PT_GNU_EH_FRAME, PF_R, "both");
        return builder.build();
    };
    const Vector file = file_with(1, 0x1b, 4);
    auto frames = good(file).read_eh_frame(MemorySource(file));
    ASSERT_TRUE(frames && *frames);
    EXPECT_EQ((*frames)->address, LinkAddr(0x2008));
    EXPECT_EQ((*frames)->bytes, kFrames); // to the segment's end
    for (const Vector &bad : {file_with(2, 0x1b, 4), file_with(1, 0x9b, 4), file_with(1, 0x1b, 9),
                              file_with(1, 0x1b, 0x10000), file_with(1, 0x1b, -0x3000)}) {
        frames = good(bad).read_eh_frame(MemorySource(bad));
        ASSERT_FALSE(frames);
        EXPECT_EQ(frames.error().status, DWUNW_ERR_ELF_MALFORMED);
    }
}

TEST(Image, OtherFilesAreNotElf) {
    for (const Vector &file : {Vector(), Vector{0x7f}, Vector{'#', '!', '/', 'b'}, Vector(100, 0)})
        EXPECT_EQ(parse(file).error().status, DWUNW_ERR_NOT_ELF);
    Vector file = ElfBuilder().build();
    file.resize(40);
    EXPECT_EQ(parse(file).error().status, DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(parse(file).error().value, 40u);
    ElfBuilder small;
    small.header.e_ident[EI_CLASS] = ELFCLASS32;
    EXPECT_EQ(parse(small.build()).error().status, DWUNW_ERR_UNSUPPORTED_ARCH);
    ElfBuilder big_endian;
    big_endian.header.e_ident[EI_DATA] = ELFDATA2MSB;
    EXPECT_EQ(parse(big_endian.build()).error().status, DWUNW_ERR_UNSUPPORTED_ARCH);
}

TEST(Image, ARealProgram) {
    for (const char *path : {"/proc/self/exe", "/usr/bin/python3", "/lib/x86_64-linux-gnu/libc.so.6"}) {
        auto source = process::FileSource::open(path);
        ASSERT_TRUE(source) << path;
        auto image = Image::parse(*source);
        ASSERT_TRUE(image) << path;
        EXPECT_EQ(image->machine(), EM_X86_64);
        EXPECT_GE(image->load_segments().size(), 3u);
        EXPECT_GT(image->sections().size(), 20u);
        auto frames = image->read_eh_frame(*source);
        ASSERT_TRUE(frames && *frames);
        EXPECT_GT((*frames)->bytes.size(), 1000u);
    }
}

// For any change of a file there is a result or a typed error, and every read lies within the file.
void look_everywhere(const Vector &file) {
    const MemorySource source(file);
    auto image = Image::parse(source);
    if (!image) {
        ASSERT_NE(image.error().status, DWUNW_OK);
        return;
    }
    for (const char *name : {".eh_frame", ".debug_frame", ".text", ""}) {
        auto section = image->read_section(source, name);
        if (section && *section) {
            ASSERT_LE((*section)->bytes.size(), size_t{1} << 24);
        }
    }
    (void)image->read_eh_frame(source);
    (void)image->file_offset(LinkAddr(0x1000));
}

Vector busy_file() {
    ElfBuilder builder;
    builder.add({".text", Vector(32, 0x90), 0x1000, SHF_ALLOC | SHF_EXECINSTR})
        .add({".note", testing::note("GNU", NT_GNU_BUILD_ID, Vector(20, 7)), 0x1800, SHF_ALLOC, SHT_NOTE})
        .add({".eh_frame", kFrames, 0x2000})
        .add({".debug_frame", with_header(ELFCOMPRESS_ZLIB, 100, zlib_bytes(Vector(100, 1))), 0, SHF_COMPRESSED})
        .add_segment(PT_LOAD, PF_R | PF_X, ".text")
        .add_segment(PT_GNU_EH_FRAME, PF_R, ".eh_frame")
        .add_segment(PT_NOTE, PF_R, ".note");
    return builder.build();
}

TEST(Image, CutAnywhereIsATypedError) {
    const Vector whole = busy_file();
    for (size_t size = 0; size < whole.size(); ++size) {
        SCOPED_TRACE(size);
        look_everywhere(Vector(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)));
    }
}

TEST(Image, ChangedAnywhereIsATypedError) {
    const Vector whole = busy_file();
    std::mt19937_64 random(5);
    for (size_t at = 0; at < whole.size(); ++at) {
        SCOPED_TRACE(at);
        for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
            Vector changed = whole;
            changed[at] = static_cast<uint8_t>(value);
            look_everywhere(changed);
        }
    }
    for (int round = 0; round < 5000; ++round) {
        Vector changed = whole;
        for (uint64_t flips = 1 + random() % 8; flips > 0; --flips)
            changed[random() % changed.size()] = static_cast<uint8_t>(random());
        look_everywhere(changed);
    }
}

} // namespace
} // namespace dwunw::elf
