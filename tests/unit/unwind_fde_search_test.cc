// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/fde_search.h"

#include "support/cfi_bytes.h"
#include "support/watched_source.h"
#include "unwind/module_cfi.h"

#include <gtest/gtest.h>

#include <elf.h>

#include <algorithm>
#include <atomic>
#include <thread>

namespace dwunw::unwind {
namespace {

using testing::Bytes;
using testing::FrameSection;
using testing::WatchedSource;
using Kind = FdeSearch::Answer::Kind;

constexpr uint64_t kHeaderAddress = 0x8000000;
constexpr uint64_t kFrameAddress = 0x9000000;
constexpr uint64_t kFirst = 0x1000;
constexpr uint64_t kEvery = 0x100; // from function to function
constexpr uint64_t kLength = 0x80;
constexpr size_t kFunctions = 5000;

// A file of a header and a section too big to be listed for one address.
struct File {
    struct Entry {
        uint64_t start;
        uint64_t fde; // from the section's start
    };

    explicit File(size_t functions = kFunctions) {
        const size_t cie = frames.cie();
        for (size_t i = 0; i < functions; ++i)
            entries.push_back({kFirst + i * kEvery, frames.fde(cie, kFirst + i * kEvery, kLength,
                                                               Bytes().advance(4).def_cfa_offset(16 + 8 * (i % 100)))});
    }

    CfiInput open() {
        Bytes header(
            {1, dwarf::DW_EH_PE_omit, dwarf::DW_EH_PE_udata4, dwarf::DW_EH_PE_datarel | dwarf::DW_EH_PE_sdata4});
        header.u32(entries.size());
        for (const Entry &entry : entries)
            header.u32(static_cast<uint32_t>(entry.start - kHeaderAddress))
                .u32(static_cast<uint32_t>(kFrameAddress + entry.fde - kHeaderAddress));
        Bytes file = header;
        file.data().insert(file.data().end(), frames.data().begin(), frames.data().end());
        source = std::make_shared<WatchedSource>(file.data());
        CfiInput input;
        input.eh_frame.emplace(source, FileOffset(header.size()), frames.data().size(), LinkAddr(kFrameAddress));
        input.eh_frame_hdr.emplace(source, FileOffset(0), header.size(), LinkAddr(kHeaderAddress));
        input.machine = EM_X86_64;
        return input;
    }
    std::unique_ptr<FdeSearch> reader() {
        CfiInput input = open();
        return std::make_unique<FdeSearch>(std::move(*input.eh_frame), std::move(input.eh_frame_hdr), LinkAddr(),
                                           LinkAddr());
    }
    std::unique_ptr<ModuleCfi> module() {
        auto module = ModuleCfi::build(open());
        EXPECT_TRUE(module);
        return std::move(*module);
    }

    FrameSection frames;
    std::vector<Entry> entries;
    std::shared_ptr<WatchedSource> source;
};

TEST(FdeSearch, ReadsTheFewPiecesItNeeds) {
    File file;
    const auto reader = file.reader();
    ASSERT_GT(reader->eh_frame().size(), FdeSearch::kListedBytes);
    const auto found = reader->find(LinkAddr(kFirst + 4000 * kEvery + 5));
    ASSERT_TRUE(found);
    ASSERT_EQ(found->kind, Kind::kFound);
    EXPECT_EQ(found->fde.offset, file.entries[4000].fde);
    EXPECT_EQ(found->fde.start, LinkAddr(kFirst + 4000 * kEvery));
    EXPECT_EQ(found->fde.end, LinkAddr(kFirst + 4000 * kEvery + kLength));
    EXPECT_LE(file.source->bytes_read, 10 * LazySection::kPiece);
    const auto gap = reader->find(LinkAddr(kFirst + 4000 * kEvery + kLength));
    ASSERT_TRUE(gap);
    EXPECT_EQ(gap->kind, Kind::kGap);
    EXPECT_EQ(gap->next, LinkAddr(kFirst + 4001 * kEvery));
    EXPECT_LE(file.source->bytes_read, 12 * LazySection::kPiece);
    EXPECT_LE(reader->memory_bytes(), 12 * LazySection::kPiece);
}

TEST(FdeSearch, GapsAtBothEnds) {
    File file;
    const auto reader = file.reader();
    const auto before = reader->find(LinkAddr(kFirst - 1));
    ASSERT_TRUE(before);
    EXPECT_EQ(before->kind, Kind::kGap);
    EXPECT_EQ(before->next, LinkAddr(kFirst));
    const auto behind = reader->find(LinkAddr(kFirst + kFunctions * kEvery));
    ASSERT_TRUE(behind);
    EXPECT_EQ(behind->kind, Kind::kGap);
    EXPECT_EQ(behind->next, LinkAddr(~uint64_t{0}));
}

// In pieces, from the list, and from the table: one answer for each address.
TEST(FdeSearch, AModuleInPiecesAgreesWithTheWholeModule) {
    File file;
    const auto in_pieces = file.module();
    const auto at_hand =
        ModuleCfi::build({.eh_frame = SectionBytes{file.frames.data(), LinkAddr(kFrameAddress)}, .machine = EM_X86_64});
    ASSERT_TRUE(at_hand);
    const auto compiled = file.module();
    ASSERT_TRUE(compiled->compile());
    for (uint64_t pc = kFirst - 3; pc < kFirst + kFunctions * kEvery + 3; pc += pc % 0x40 == 6 ? 0x38 : 1) {
        const auto one = in_pieces->rule_at(LinkAddr(pc));
        const auto two = (*at_hand)->rule_at(LinkAddr(pc));
        ASSERT_EQ(one.status, two.status) << std::hex << pc;
        ASSERT_EQ(one.rule, two.rule) << std::hex << pc;
        ASSERT_EQ(one.end, two.end) << std::hex << pc;
        const auto three = compiled->rule_at(LinkAddr(pc));
        ASSERT_EQ(one.status, three.status) << std::hex << pc;
        ASSERT_EQ(one.rule, three.rule) << std::hex << pc;
        const auto fde = in_pieces->find_fde(LinkAddr(pc));
        const auto other = compiled->find_fde(LinkAddr(pc));
        ASSERT_EQ(fde.ok(), one.status == DWUNW_OK) << std::hex << pc;
        ASSERT_EQ(fde.ok(), other.ok()) << std::hex << pc;
        if (fde) {
            ASSERT_EQ(fde->fde.offset, other->fde.offset) << std::hex << pc;
        }
    }
    // Nothing of it was listed for that.
    EXPECT_LE(file.source->bytes_read, 2 * (file.frames.data().size() + 8 * kFunctions + 8192));
}

TEST(FdeSearch, WithTheTableThePiecesAreDropped) {
    File file;
    const auto module = file.module();
    const size_t empty = module->memory_bytes();
    for (size_t i = 0; i < kFunctions; i += 10)
        ASSERT_EQ(module->rule_at(LinkAddr(kFirst + i * kEvery)).status, DWUNW_OK);
    EXPECT_GT(module->memory_bytes(), empty + file.frames.data().size() / 2);
    const auto held = module->find_fde(LinkAddr(kFirst));
    const auto table = module->compile();
    ASSERT_TRUE(table);
    EXPECT_EQ(module->memory_bytes(), empty + (*table)->memory_bytes());
    // Bytes in use stay valid, and bytes that are needed again are read again.
    ASSERT_TRUE(held);
    const auto again = module->find_fde(LinkAddr(kFirst));
    ASSERT_TRUE(again);
    EXPECT_TRUE(std::ranges::equal(held->fde.instructions, again->fde.instructions));
    EXPECT_LE(module->memory_bytes(), empty + (*table)->memory_bytes() + 20 * LazySection::kPiece);
}

// What is said wrong beside the address makes the header's silence worth nothing: every FDE is listed, and found.
TEST(FdeSearch, AWrongHeaderHidesNoFde) {
    constexpr size_t kHere = 2500;
    const uint64_t in_gap = kFirst + kHere * kEvery + kLength + 8;
    const auto check = [&](const char *what, auto &&change) {
        SCOPED_TRACE(what);
        File file;
        // In the gap is a function of which the header says nothing.
        const size_t hidden = file.frames.fde(0, in_gap, 8, Bytes().def_cfa_offset(0x1230));
        change(file.entries);
        const auto answer = file.reader()->find(LinkAddr(in_gap));
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->kind, Kind::kUnknown);
        const auto module = file.module();
        const auto rule = module->rule_at(LinkAddr(in_gap));
        EXPECT_EQ(rule.status, DWUNW_OK);
        EXPECT_EQ(rule.rule.cfa_offset, 0x1230);
        const auto fde = module->find_fde(LinkAddr(in_gap + 7));
        ASSERT_TRUE(fde);
        EXPECT_EQ(fde->fde.offset, hidden);
    };
    using Entries = std::vector<File::Entry>;
    check("the FDE before begins elsewhere", [](Entries &e) { --e[kHere].start; });
    check("the FDE behind begins elsewhere", [](Entries &e) { ++e[kHere + 1].start; });
    check("the one before is another's", [](Entries &e) { e[kHere].fde = e[kHere + 1].fde; });
    check("the one behind is none", [](Entries &e) { e[kHere + 1].fde = 0; });
    check("the one behind is outside", [](Entries &e) { e[kHere + 1].fde = 0x7000000; });
    check("few", [](Entries &e) { e.resize(100); });
    check("none", [](Entries &e) { e.clear(); });
}

// One FDE left out, and all else as it should be: hidden until there is a table, and not a wrong rule.
TEST(FdeSearch, AnFdeThatTheHeaderLeavesOut) {
    File file;
    const uint64_t start = kFirst + 77 * kEvery;
    file.entries.erase(file.entries.begin() + 77);
    const auto module = file.module();
    EXPECT_EQ(module->rule_at(LinkAddr(start)).status, DWUNW_ERR_NO_CFI);
    ASSERT_TRUE(module->compile());
    EXPECT_EQ(module->rule_at(LinkAddr(start)).status, DWUNW_OK);
    const auto found = module->find_fde(LinkAddr(start));
    ASSERT_TRUE(found);
    EXPECT_EQ(found->fde.start, LinkAddr(start));
}

TEST(FdeSearch, WithDebugFrameAGapMayBeCovered) {
    File file;
    FrameSection debug_frame(true);
    debug_frame.fde(debug_frame.cie(), kFirst + kLength, 8);
    CfiInput input = file.open();
    input.debug_frame = SectionBytes{debug_frame.data(), LinkAddr()};
    const auto module = ModuleCfi::build(std::move(input));
    ASSERT_TRUE(module);
    EXPECT_EQ((*module)->rule_at(LinkAddr(kFirst + kLength)).status, DWUNW_OK);
    EXPECT_EQ((*module)->rule_at(LinkAddr(kFirst + kLength + 8)).status, DWUNW_ERR_NO_CFI);
    EXPECT_EQ((*module)->find_fde(LinkAddr(kFirst + kLength))->section.size(), debug_frame.data().size());
}

// At whichever read a file changes, or ends: what is answered is right, or says so.
TEST(FdeSearch, AFileThatChangesBetweenTwoReads) {
    const uint64_t pc = kFirst + 4000 * kEvery + 5;
    for (uint64_t at = 1;; ++at) {
        File file;
        const auto module = file.module();
        file.source->changes_at = at;
        const auto rule = module->rule_at(LinkAddr(pc));
        if (!file.source->changed) {
            EXPECT_EQ(rule.status, DWUNW_OK);
            EXPECT_GT(at, 3u);
            break;
        }
        EXPECT_EQ(rule.status, DWUNW_ERR_MODULE_CHANGED) << at;
        EXPECT_GT(rule.end, LinkAddr(pc));
        EXPECT_EQ(module->find_fde(LinkAddr(pc)).error().status, DWUNW_ERR_MODULE_CHANGED);
        EXPECT_EQ(module->fdes().error().status, DWUNW_ERR_MODULE_CHANGED);
        EXPECT_EQ(module->compile().error().status, DWUNW_ERR_MODULE_CHANGED);
        EXPECT_EQ(module->table(), nullptr);
    }
}

TEST(FdeSearch, AFileThatEndsEarly) {
    const uint64_t pc = kFirst + 4000 * kEvery + 5;
    size_t bad = 0;
    for (uint64_t cut = 0; cut < 400'000; cut += 1021) {
        File file;
        const auto module = file.module();
        file.source->cut = cut;
        const auto rule = module->rule_at(LinkAddr(pc));
        bad += rule.status != DWUNW_OK;
        EXPECT_TRUE(rule.status == DWUNW_ERR_IO || (rule.status == DWUNW_OK && rule.rule.cfa_offset == 16)) << cut;
    }
    EXPECT_GT(bad, 10u);
}

// Pieces are dropped while other threads may use them.
TEST(FdeSearch, ManyThreadsAskWhileItIsCompiled) {
    File file;
    const auto module = file.module();
    std::atomic<size_t> asked = 0;
    std::atomic<bool> wrong = false;
    std::vector<std::thread> threads;
    for (size_t seed = 0; seed < 3; ++seed)
        threads.emplace_back([&, seed] {
            for (size_t i = seed; module->table() == nullptr || i < 3000; i += 7) {
                const size_t function = i * 37 % kFunctions;
                const LinkAddr at(kFirst + function * kEvery + 4);
                const auto rule = module->rule_at(at);
                const auto fde = module->find_fde(at);
                if (rule.status != DWUNW_OK ||
                    rule.rule.cfa_offset != static_cast<int32_t>(16 + 8 * (function % 100)) || !fde ||
                    fde->fde.offset != file.entries[function].fde || fde->fde.instructions.size() < 2 ||
                    fde->fde.instructions[0] != (dwarf::DW_CFA_advance_loc | 4))
                    wrong = true;
                ++asked;
            }
        });
    while (asked < 100)
        std::this_thread::yield();
    EXPECT_TRUE(module->compile());
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_FALSE(wrong);
}

} // namespace
} // namespace dwunw::unwind
