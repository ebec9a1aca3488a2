// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// When the kernel may walk with a published map: while it is valid, or with the mappings that last; and when it may use
// a cached rule.
#include "support/bpf_walk_fixture.h"

#include <string>
#include <thread>

namespace dwunw::bpf {
namespace {

using namespace dwarf;
using namespace testing;
using unwind::CodeKind;

TEST_F(BpfWalk, OnlyAValidMapIsUsed) {
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    ASSERT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    const auto expect_changed = [&](const char *why) {
        SCOPED_TRACE(why);
        EXPECT_GT(kernel_walk(at(kLeaf), 0), 0);
        EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED);
        EXPECT_EQ(world_.walk_layout, 0u);
    };
    process_.changes = 1;
    expect_changed("the linker was at work");
    EXPECT_EQ(world_.processes_sent, 1u) << "asked once";
    EXPECT_EQ(process_.need_sent, 1u);
    expect_changed("still");
    EXPECT_EQ(world_.processes_sent, 1u);
    process_.changes = 0;
    world_.exec_pages = 11;
    expect_changed("pages");
    world_.exec_pages = 10;
    process_.lock = 1;
    expect_changed("being written");
    process_.lock = 2;
    process_.generation = 0;
    expect_changed("nothing published");
    process_.generation = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    process_.tgid = 2;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_UNKNOWN_PROCESS);
    world_.process = nullptr;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_UNKNOWN_PROCESS);
    world_.settings.report_unknown = 1;
    expect_changed("unknown, and to be reported");
}

TEST_F(BpfWalk, RulesOfAnotherGenerationAreNotUsed) {
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    ASSERT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    cells_.assign(cells_.size(), 0); // no rules any more
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE) << "out of the cache";
    process_.generation = 2;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_GAP);
}

// Found in use: while plugins were loaded and unloaded all the time, every stack went to user space.
TEST_F(BpfWalk, LastingMappingsAreWalkedWhileTheMapChanges) {
    process_.lasting_first = 1; // the module
    process_.lasting_count = 1;
    process_.lasting_generation = 7;
    process_.lasting_layout = 9;
    process_.changes = 1;
    set(kSp, at(kRoot, 1));
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    EXPECT_EQ(world_.stack.layout, 9u);
    EXPECT_EQ(world_.processes_sent, 1u) << "the map must be read nevertheless";
    process_.changes = 2;
    world_.exec_pages = 12;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id) << "what lasts means the same";

    set(kSp, kJit + 0x10);
    const int64_t through_other_code = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(through_other_code, 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_CHANGED) << "in no mapping that lasts";
    EXPECT_EQ(world_.walk_layout, 0u) << "user space may need other mappings, too";
    process_.changes = 3;
    EXPECT_NE(kernel_walk(at(kLeaf), 0), through_other_code) << "another moment";

    set(kSp, at(kRoot, 1));
    process_.execs = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED) << "another program";
    process_.execs = 0;
    process_.lock = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED) << "being written";
}

TEST_F(BpfWalk, CachedRulesOfOtherMappingsAreNotUsedWhileTheMapChanges) {
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    ASSERT_EQ(world_.reason, DWUNW_BPF_COMPLETE) << "and its rules are cached";
    process_.lasting_count = 1; // the other mapping
    process_.lasting_generation = 7;
    process_.lasting_layout = 9;
    process_.changes = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED);
}

TEST_F(BpfWalk, MoreMappingsThanArePublished) {
    process_.incomplete = 1;
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE) << "those that are";
    set(kSp, 0x12345678);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_NOT_PUBLISHED);
    EXPECT_EQ(world_.walk_layout, 1u) << "the map is known in user space";
    set(kSp + 512, 0x23456789);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "any word may be code that is not published";
    process_.count = 0;
    ASSERT_GT(kernel_walk(at(kLeaf, 8), 0), 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_NOT_PUBLISHED);
}

// Two processes whose rules differ at the same addresses, in one cache, from many threads: a rule is never taken from
// one for the other, nor half of it.
TEST_F(BpfWalk, OneCacheForAll) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 24, at(kRoot, 0x30)).set(kSp + 24, 1);
    FrameSection other;
    const size_t cie = other.cie();
    other.fde(cie, kLeaf, 0x100, Bytes().def_cfa_offset(48));
    other.fde(cie, kMiddle, 0x100, Bytes().def_cfa_offset(16));
    other.fde(cie, kRoot, 0x100, Bytes({DW_CFA_undefined, RIP}));
    FakeSpace other_space;
    other_space.add_module(kModule, kModuleSize, other);
    const unwind::Table &table = **other_space.find(RunAddr(kModule)).cfi->compile();
    std::vector<uint64_t> other_cells = table_cells(table);
    std::vector<dwunw_mapping> other_mappings = mappings_;
    other_mappings[1].table = 0;
    other_mappings[1].origin = kModule + table.base().value;
    set(kSp + 40, at(kMiddle, 0x20)).set(kSp + 48 + 8, at(kRoot, 0x31));

    const auto hammer = [&](bool is_other, std::vector<std::string> &problems) {
        bpf_user_world world = world_;
        dwunw_process_slot slot = process_;
        world.process = &slot;
        if (is_other) {
            world.pool = other_cells.data();
            world.pool_cells = other_cells.size();
            world.mappings = other_mappings.data();
            slot.layout = 2;
        }
        std::array<uint64_t, DWUNW_BPF_PT_REGS> regs{};
        regs[16] = at(kLeaf, 4);
        regs[19] = kSp;
        regs[17] = 0x33;
        for (uint32_t i = 0; i < 200000 && problems.empty(); ++i) {
            slot.generation = (is_other ? 101 : 1) + i / 16 % 50;
            world.sent_count = 0;
            if (bpf_user_get_stackid(&world, regs.data(), 0) <= 0 || world.reason != 0 || world.stack.count != 3 ||
                (world.stack.frames[2] & DWUNW_BPF_FRAME_PC) != at(kRoot, is_other ? 0x31 : 0x30))
                problems.push_back("reason " + std::to_string(world.reason));
        }
    };
    std::array<std::vector<std::string>, 4> problems;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < problems.size(); ++i)
        threads.emplace_back([&, i] { hammer(i % 2 == 1, problems[i]); });
    for (std::thread &thread : threads)
        thread.join();
    for (const auto &list : problems)
        EXPECT_TRUE(list.empty()) << list.front();
}

} // namespace
} // namespace dwunw::bpf
