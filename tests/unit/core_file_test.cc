// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "core/file.h"

#include "process_testing.h"
#include "support/core_builder.h"

#include <random>

namespace dwunw::core {
namespace {

using testing::CoreBuilder;
using testing::OwnedSource;

Result<CoreFile> parse(std::vector<uint8_t> bytes) {
    return CoreFile::parse(std::make_shared<const OwnedSource>(std::move(bytes)));
}

dwunw_status status_of(std::vector<uint8_t> bytes) {
    const auto core = parse(std::move(bytes));
    return core ? DWUNW_OK : core.error().status;
}

CoreBuilder ordinary() {
    CoreBuilder builder;
    builder.add_thread(71).add_process(70, "worker").add_thread(70);
    builder.add_auxiliary({{AT_PAGESZ, 4096}, {AT_ENTRY, 0x401020}, {AT_NULL, 0}, {AT_BASE, 1}});
    builder.add_files({{0x400000, 0x402000, 0, "/bin/worker"}, {0x7f0000, 0x7f1000, 3, "/lib/a\nb (deleted)"}});
    builder.add_note(NT_PRSTATUS, {1, 2, 3}, "OTHER");
    builder.add({0x7ff000, 0x2000, PF_R | PF_W, std::vector<uint8_t>(0x2000, 7)});
    builder.add({0x400000, 0x2000, PF_R | PF_X, std::vector<uint8_t>(0x1000, 1)});
    builder.add({0x801000, 0x1000, PF_R | PF_W, std::vector<uint8_t>(0x10, 9)});
    return builder;
}

TEST(CoreFile, AnOrdinaryCoreIsReadCompletely) {
    const auto core = parse(ordinary().build());
    ASSERT_TRUE(core);
    EXPECT_EQ(core->pid(), 70);
    EXPECT_EQ(core->name(), "worker");
    ASSERT_EQ(core->threads().size(), 2u);
    EXPECT_EQ(core->threads()[0].tid, 71); // in the core's order
    EXPECT_EQ(core->threads()[0].registers[16], 71016u);
    EXPECT_EQ(core->threads()[1].registers[19], 70019u);
    EXPECT_EQ(core->auxiliary(AT_ENTRY), 0x401020u);
    EXPECT_EQ(core->auxiliary(AT_PHDR), std::nullopt);
    EXPECT_EQ(core->auxiliary(AT_BASE), std::nullopt) << "behind the end";
    ASSERT_EQ(core->mapped_files().size(), 2u);
    EXPECT_EQ(core->mapped_files()[1].path, "/lib/a\nb (deleted)");
    EXPECT_EQ(core->mapped_files()[1].offset, FileOffset(0x3000));
    ASSERT_EQ(core->segments().size(), 3u);
    EXPECT_EQ(core->segments()[0].start, RunAddr(0x400000)); // ascending
    EXPECT_TRUE(core->segments()[0].executable);
    EXPECT_FALSE(core->segments()[0].writable);
}

TEST(CoreFile, MemoryIsWhatTheSegmentsHold) {
    const auto core = parse(ordinary().build());
    ASSERT_TRUE(core);
    std::vector<uint8_t> buffer(0x4000);
    EXPECT_EQ(core->read(RunAddr(0x400ffe), buffer), 2u); // what was left out is not there
    EXPECT_EQ(core->read(RunAddr(0x401000), buffer), 0u);
    EXPECT_EQ(core->read(RunAddr(0x3fffff), buffer), 0u);
    EXPECT_EQ(core->read(RunAddr(0x800fff), buffer), 0x11u); // over a seam
    EXPECT_EQ(buffer[0], 7);
    EXPECT_EQ(buffer[1], 9);
    EXPECT_EQ(core->read(RunAddr(~uint64_t{0}), buffer), 0u);
    EXPECT_TRUE(core->holds(RunAddr(0x7ff000), RunAddr(0x801010)));
    EXPECT_FALSE(core->holds(RunAddr(0x7ff000), RunAddr(0x801011)));
    EXPECT_FALSE(core->holds(RunAddr(0x7fefff), RunAddr(0x7ff001)));
}

TEST(CoreFile, MoreSegmentsThan16BitsCount) {
    CoreBuilder builder;
    builder.add_thread(1);
    for (uint64_t i = 0; i < 70'000; ++i)
        builder.add({0x10000 + i * 0x2000, 0x1000, PF_R, {}});
    builder.segments.back().bytes = {42};
    const auto core = parse(builder.build());
    ASSERT_TRUE(core);
    EXPECT_EQ(core->segments().size(), 70'000u);
    std::vector<uint8_t> byte(1);
    EXPECT_EQ(core->read(core->segments().back().start, byte), 1u);
    EXPECT_EQ(byte[0], 42);
    // The count lies.
    auto bytes = builder.build();
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    const uint32_t huge = 0xffffffff;
    std::memcpy(bytes.data() + header.e_shoff + offsetof(Elf64_Shdr, sh_info), &huge, sizeof(huge));
    EXPECT_EQ(status_of(bytes), DWUNW_ERR_LIMIT);
    header.e_shoff = 0;
    std::memcpy(bytes.data(), &header, sizeof(header));
    EXPECT_EQ(status_of(bytes), DWUNW_ERR_ELF_MALFORMED);
}

TEST(CoreFile, OtherFilesAreNotCores) {
    EXPECT_EQ(status_of({}), DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(status_of(std::vector<uint8_t>(1000, 'x')), DWUNW_ERR_NOT_ELF);
    const auto with = [](auto change) {
        CoreBuilder builder = ordinary();
        change(builder.header);
        return status_of(builder.build());
    };
    EXPECT_EQ(with([](auto &header) { header.e_type = ET_DYN; }), DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(with([](auto &header) { header.e_machine = EM_AARCH64; }), DWUNW_ERR_UNSUPPORTED_ARCH);
    EXPECT_EQ(with([](auto &header) { header.e_ident[EI_CLASS] = ELFCLASS32; }), DWUNW_ERR_UNSUPPORTED_ARCH);
    EXPECT_EQ(with([](auto &header) { header.e_ident[EI_DATA] = ELFDATA2MSB; }), DWUNW_ERR_UNSUPPORTED_ARCH);
    EXPECT_EQ(with([](auto &header) { header.e_phentsize = 55; }), DWUNW_ERR_ELF_MALFORMED);
}

TEST(CoreFile, SegmentsThatCannotBe) {
    const auto with = [](CoreBuilder::Segment segment) {
        CoreBuilder builder = ordinary();
        builder.add(std::move(segment));
        return status_of(builder.build());
    };
    EXPECT_EQ(with({0x900000, 0x1000, PF_R, {}}), DWUNW_OK);
    EXPECT_EQ(with({0xffffffffff600000, 0x1000, PF_X, {}}), DWUNW_OK);
    EXPECT_EQ(with({0x900000, 0x10, PF_R, std::vector<uint8_t>(0x11)}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with({0xfffffffffffff000, 0x1001, PF_R, {}}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with({0x401fff, 0x1000, PF_R, {}}), DWUNW_ERR_ELF_MALFORMED) << "overlapping";
    // An offset that runs over, one past the end: the latter is a core that was cut off, and reads short.
    auto bytes = ordinary().build();
    const size_t offset = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, p_offset);
    uint64_t lie = ~uint64_t{0} - 5;
    std::memcpy(bytes.data() + offset, &lie, sizeof(lie));
    EXPECT_EQ(status_of(bytes), DWUNW_ERR_ELF_MALFORMED);
    lie = bytes.size() - 8;
    std::memcpy(bytes.data() + offset, &lie, sizeof(lie));
    const auto core = parse(bytes);
    ASSERT_TRUE(core);
    std::vector<uint8_t> buffer(16);
    EXPECT_EQ(core->read(RunAddr(0x400000), buffer), 8u);
    EXPECT_FALSE(core->holds(RunAddr(0x400000), RunAddr(0x400010)));
}

TEST(CoreFile, NotesThatCannotBe) {
    const auto with = [](uint32_t type, const std::vector<uint8_t> &description) {
        CoreBuilder builder;
        builder.add_thread(1).add_note(type, description);
        return status_of(builder.build());
    };
    const auto files = [&](const std::vector<CoreBuilder::File> &list, uint64_t page_size = 4096) {
        return with(NT_FILE, CoreBuilder::file_note(list, page_size));
    };
    EXPECT_EQ(files({{0x1000, 0x2000, 0, "/a"}, {0x2000, 0x3000, 0, "/b"}}), DWUNW_OK);
    EXPECT_EQ(files({{0x1000, 0x3000, 0, "/a"}, {0x2000, 0x3000, 0, "/b"}}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(files({{0x2000, 0x2000, 0, "/a"}}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(files({{0x1000, 0x2000, uint64_t{1} << 60, "/a"}}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(files({{0x1000, 0x3000, ~uint64_t{0} - 0x1000, "/a"}}, 1), DWUNW_ERR_ELF_MALFORMED);
    auto note = CoreBuilder::file_note({{0x1000, 0x2000, 0, "/a"}});
    note.pop_back(); // the path's end
    EXPECT_EQ(with(NT_FILE, note), DWUNW_ERR_ELF_MALFORMED);
    for (const uint64_t count : {uint64_t{2}, uint64_t{1} << 61, ~uint64_t{0}}) {
        note = CoreBuilder::file_note({{0x1000, 0x2000, 0, "/a"}});
        std::memcpy(note.data(), &count, sizeof(count));
        EXPECT_EQ(with(NT_FILE, note), DWUNW_ERR_ELF_MALFORMED) << count;
    }
    EXPECT_EQ(with(NT_FILE, {1, 2, 3}), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with(NT_PRSTATUS, std::vector<uint8_t>(335)), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with(NT_PRPSINFO, std::vector<uint8_t>(137)), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(with(NT_AUXV, std::vector<uint8_t>(15)), DWUNW_OK);
    EXPECT_EQ(with(NT_AUXV, std::vector<uint8_t>(1 << 20, 1)), DWUNW_OK);
    EXPECT_EQ(status_of(CoreBuilder().build()), DWUNW_ERR_ELF_MALFORMED) << "no thread";
    EXPECT_EQ(status_of(ordinary().add_process(1, "again").build()), DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(status_of(ordinary().add_files({}).build()), DWUNW_ERR_ELF_MALFORMED);

    // The notes' segment, and the sizes inside a note, lie.
    const size_t note_segment = sizeof(Elf64_Ehdr);
    for (const size_t field : {offsetof(Elf64_Phdr, p_offset), offsetof(Elf64_Phdr, p_filesz)})
        for (const uint64_t lie : {uint64_t{1} << 40, ~uint64_t{0}}) {
            auto bytes = ordinary().build();
            std::memcpy(bytes.data() + note_segment + field, &lie, sizeof(lie));
            const dwunw_status status = status_of(bytes);
            EXPECT_TRUE(status == DWUNW_ERR_ELF_MALFORMED || status == DWUNW_ERR_LIMIT) << field << " " << lie;
        }
    for (size_t word = 0; word < 2; ++word) {
        CoreBuilder builder = ordinary();
        const uint32_t lie = 0xfffffff0;
        std::memcpy(builder.notes.data() + word * sizeof(lie), &lie, sizeof(lie));
        EXPECT_EQ(status_of(builder.build()), DWUNW_ERR_ELF_MALFORMED) << word;
    }
}

TEST(CoreFile, CutOffAnywhere) {
    CoreBuilder builder = ordinary();
    const auto whole = builder.build();
    for (size_t size = 0; size < whole.size(); size += size < builder.notes_end + 64 ? 1 : 97) {
        const auto core = parse({whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)});
        if (size < builder.notes_end) {
            ASSERT_FALSE(core) << size;
            EXPECT_EQ(core.error().status, size < SELFMAG ? DWUNW_ERR_NOT_ELF : DWUNW_ERR_ELF_MALFORMED) << size;
            continue;
        }
        ASSERT_TRUE(core) << size;
        std::vector<uint8_t> buffer(0x2000);
        size_t held = 0;
        for (const auto &segment : core->segments())
            held += core->read(segment.start, std::span(buffer).first(std::min<size_t>(segment.memory_size, 0x2000)));
        // The seam is read over where both sides are there: at most what there is, counted once a segment.
        EXPECT_LE(held, size - builder.notes_end) << size;
    }
}

// For any bytes the answer is a core or a typed error: this is what the sanitizers test.
TEST(CoreFile, BytesChangedAtRandom) {
    CoreBuilder builder = ordinary();
    const auto whole = builder.build();
    std::mt19937_64 random(7);
    size_t opened = 0;
    for (int i = 0; i < 20'000; ++i) {
        auto bytes = whole;
        for (uint64_t n = random() % 4 + 1; n > 0; --n)
            bytes[random() % builder.notes_end] = static_cast<uint8_t>(random() % 3 == 0 ? 0xff : random());
        const auto core = parse(std::move(bytes));
        if (!core) {
            EXPECT_STRNE(dwunw_status_string(core.error().status), "unknown status");
            continue;
        }
        ++opened;
        std::vector<uint8_t> buffer(64);
        for (const auto &segment : core->segments()) {
            EXPECT_LE(core->read(segment.start, buffer), buffer.size());
            EXPECT_EQ(core->segment_at(segment.start), &segment);
        }
    }
    EXPECT_GT(opened, 1000u);
}

} // namespace
} // namespace dwunw::core
