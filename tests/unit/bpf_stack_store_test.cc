// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/stack_store.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace dwunw::bpf {
namespace {

using process::Process;
using unwind::CodeKind;

const auto *const kA = reinterpret_cast<const dwunw_module *>(0x10);
const auto *const kB = reinterpret_cast<const dwunw_module *>(0x20);

// A at 0x1000 to 0x2000, bias 0x400; B right behind it, to 0x3000; code without a file to 0x4000.
Layout layout(uint64_t number = 1) {
    const auto mapping = [](uint64_t start, CodeKind kind, const dwunw_module *module, uint64_t bias) {
        return Process::CodeMapping{RunAddr(start), RunAddr(start + 0x1000),
                                    process::Binding{kind, DWUNW_OK, module, LoadBias{bias}}, nullptr};
    };
    Layout made(number);
    EXPECT_TRUE(made.extend(std::vector{mapping(0x1000, CodeKind::kModule, kA, 0x400),
                                        mapping(0x2000, CodeKind::kModule, kB, 0),
                                        mapping(0x3000, CodeKind::kAnonymous, nullptr, 0)}));
    return made;
}

dwunw_frame frame(uint64_t pc, const dwunw_module *module, uint64_t offset, uint32_t flags = 0) {
    dwunw_frame made{};
    made.pc = pc;
    made.module = module;
    made.module_offset = offset;
    made.flags = flags;
    return made;
}

constexpr __u64 kExact = DWUNW_BPF_FRAME_EXACT;
constexpr std::array<__u64, 2> kWords = {kExact | 0x1100, 0x2200};
// The same as user space finds it, with what the kernel does not say.
std::array<dwunw_frame, 2> same_frames() {
    std::array<dwunw_frame, 2> frames = {frame(0x1100, kA, 0xd00, DWUNW_FRAME_FLAG_EXACT_PC),
                                         frame(0x2200, kB, 0x2200)};
    frames[0].sp = 0x7000;
    frames[1].cfa = 0x7100;
    frames[1].source = DWUNW_SOURCE_FRAME_POINTER;
    return frames;
}

struct Found {
    dwunw_status status;
    dwunw_bpf_stack stack{};
    std::vector<dwunw_frame> frames;
};
Found look_up(const StackStore &dictionary, uint64_t id, size_t room = 8) {
    Found found;
    found.frames.resize(room);
    found.status = dictionary.lookup(id, found.stack, found.frames);
    if (found.status == DWUNW_OK)
        found.frames.resize(std::min<size_t>(room, found.stack.count));
    return found;
}
uint64_t first_id(const StackStore &dictionary, uint64_t id) { return look_up(dictionary, id).stack.id; }

TEST(StackStore, WordsOfTheKernelBecomeFrames) {
    StackStore dictionary;
    constexpr std::array<__u64, 5> kFive = {
        kExact | 0x1100,                     // where the probe was
        0x2200,                              // a return address
        DWUNW_BPF_FRAME_TRAMPOLINE | 0x2300, // one that a pending return gave
        DWUNW_BPF_FRAME_SIGNAL | 0x3400,     // the trampoline of a signal
        kExact | 0x1500,                     // what the signal interrupted
    };
    ASSERT_TRUE(dictionary.add(9, 42, layout(), kFive));
    const Found found = look_up(dictionary, 9);
    ASSERT_EQ(found.status, DWUNW_OK);
    EXPECT_EQ(found.stack.pid, 42);
    EXPECT_EQ(found.stack.status, DWUNW_OK);
    EXPECT_EQ(found.stack.reason, 0u);
    EXPECT_EQ(found.stack.id, 9u);
    ASSERT_EQ(found.stack.count, 5u);
    struct Expected {
        dwunw_frame frame;
        uint32_t source;
    };
    const std::array<Expected, 5> expected = {{
        {frame(0x1100, kA, 0xd00, DWUNW_FRAME_FLAG_EXACT_PC), DWUNW_SOURCE_REGISTERS},
        {frame(0x2200, kB, 0x2200), DWUNW_SOURCE_CFI},
        {frame(0x2300, kB, 0x2300), DWUNW_SOURCE_TRAMPOLINE},
        {frame(0x3400, nullptr, 0, DWUNW_FRAME_FLAG_SIGNAL), DWUNW_SOURCE_CFI},
        {frame(0x1500, kA, 0x1100, DWUNW_FRAME_FLAG_EXACT_PC), DWUNW_SOURCE_SIGNAL},
    }};
    for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(found.frames[i].pc, expected[i].frame.pc) << i;
        EXPECT_EQ(found.frames[i].module, expected[i].frame.module) << i;
        EXPECT_EQ(found.frames[i].module_offset, expected[i].frame.module_offset) << i;
        EXPECT_EQ(found.frames[i].flags, expected[i].frame.flags) << i;
        EXPECT_EQ(found.frames[i].source, expected[i].source) << i;
    }
}

// A call may be a module's last instruction: what it returns to is named by the call. An instruction's address is not.
TEST(StackStore, AReturnAddressBehindAModuleIsTheModules) {
    StackStore dictionary;
    constexpr std::array<__u64, 3> kBorder = {kExact | 0x2000, 0x2000, 0x1000};
    ASSERT_TRUE(dictionary.add(1, 1, layout(), kBorder));
    const Found found = look_up(dictionary, 1);
    EXPECT_EQ(found.frames[0].module, kB);
    EXPECT_EQ(found.frames[1].module, kA);
    EXPECT_EQ(found.frames[1].module_offset, 0x1c00u) << "the address itself, not the call's";
    EXPECT_EQ(found.frames[2].module, nullptr);
}

TEST(StackStore, StacksOfTheSameFramesHaveTheFirstOnesId) {
    StackStore dictionary;
    ASSERT_TRUE(dictionary.add(1, 42, layout(), kWords));
    ASSERT_TRUE(dictionary.add(2, 42, DWUNW_OK, DWUNW_BPF_FORCED, same_frames()));
    ASSERT_TRUE(dictionary.add(3, 42, layout(), kWords)) << "as after a module has come and gone";
    EXPECT_EQ(dictionary.size(), 3u);
    for (const uint64_t id : {1, 2, 3})
        EXPECT_EQ(first_id(dictionary, id), 1u) << id;
    EXPECT_EQ(look_up(dictionary, 2).stack.reason, static_cast<uint32_t>(DWUNW_BPF_FORCED));
    EXPECT_EQ(look_up(dictionary, 2).frames[1].source, static_cast<uint32_t>(DWUNW_SOURCE_FRAME_POINTER));
}

TEST(StackStore, StacksThatDifferForAReaderHaveTheirOwnIds) {
    StackStore dictionary;
    ASSERT_TRUE(dictionary.add(1, 42, layout(), kWords));
    uint64_t id = 1;
    const auto is_another = [&](int32_t pid, dwunw_status status, std::vector<dwunw_frame> frames, const char *what) {
        ++id;
        EXPECT_TRUE(dictionary.add(id, pid, status, DWUNW_BPF_FORCED, frames));
        EXPECT_EQ(first_id(dictionary, id), id) << what;
    };
    const auto same = same_frames();
    const std::vector frames(same.begin(), same.end());
    is_another(43, DWUNW_OK, frames, "another process");
    is_another(42, DWUNW_ERR_NO_CFI, frames, "not complete");
    is_another(42, DWUNW_OK, {frames[0]}, "shorter");
    auto other = frames;
    other[1].pc = 0x2201;
    is_another(42, DWUNW_OK, other, "another address");
    other = frames;
    other[1].module = kA;
    is_another(42, DWUNW_OK, other, "another module");
    other = frames;
    other[0].module_offset = 0;
    is_another(42, DWUNW_OK, other, "elsewhere in it");
    other = frames;
    other[0].flags = 0;
    is_another(42, DWUNW_OK, other, "a return address");
    is_another(42, DWUNW_OK, {}, "empty");
}

TEST(StackStore, AnIdKeepsItsFirstFrames) {
    StackStore dictionary;
    ASSERT_TRUE(dictionary.add(1, 42, layout(), kWords));
    EXPECT_TRUE(dictionary.add(1, 42, layout(), kWords));
    constexpr std::array<__u64, 2> kOther = {kExact | 0x1100, 0x2204};
    EXPECT_FALSE(dictionary.add(1, 42, layout(), kOther));
    EXPECT_FALSE(dictionary.add(1, 43, layout(), kWords));
    EXPECT_EQ(look_up(dictionary, 1).frames[1].pc, 0x2200u);

    ASSERT_TRUE(dictionary.add(2, 42, DWUNW_ERR_NO_CFI, DWUNW_BPF_NO_TABLE, same_frames()));
    EXPECT_TRUE(dictionary.add(2, 42, DWUNW_ERR_NO_CFI, DWUNW_BPF_NO_TABLE, same_frames()));
    EXPECT_FALSE(dictionary.add(2, 42, DWUNW_OK, DWUNW_BPF_NO_TABLE, same_frames()));
    EXPECT_EQ(look_up(dictionary, 2).stack.status, DWUNW_ERR_NO_CFI);
    EXPECT_EQ(dictionary.size(), 2u);
}

TEST(StackStore, LookupFillsAtMostMaxFrames) {
    StackStore dictionary;
    EXPECT_EQ(look_up(dictionary, 1).status, DWUNW_ERR_NOT_FOUND);
    EXPECT_FALSE(dictionary.contains(1));
    ASSERT_TRUE(dictionary.add(1, 42, layout(), kWords));
    EXPECT_TRUE(dictionary.contains(1));
    const Found found = look_up(dictionary, 1, 1);
    EXPECT_EQ(found.stack.count, 2u);
    ASSERT_EQ(found.frames.size(), 1u);
    EXPECT_EQ(found.frames[0].pc, 0x1100u);
    EXPECT_EQ(look_up(dictionary, 1, 0).status, DWUNW_OK);

    ASSERT_TRUE(dictionary.add(7, 42, DWUNW_ERR_NO_PROCESS, DWUNW_BPF_UNKNOWN_PROCESS, {}));
    EXPECT_EQ(look_up(dictionary, 7).stack.count, 0u);
    std::set<uint64_t> ids;
    dictionary.each([&](uint64_t id) { ids.insert(id); });
    EXPECT_EQ(ids, (std::set<uint64_t>{1, 7}));
}

// A target that never calls twice from one place would otherwise take all memory.
TEST(StackStore, StacksBeyondItsLimitAreCounted) {
    constexpr size_t kLimit = 64 << 10;
    constexpr uint64_t kCount = 10000;
    StackStore dictionary(kLimit);
    const auto of = layout();
    for (uint64_t id = 1; id <= kCount; ++id) {
        const std::array<__u64, 2> words = {kExact | 0x1100, 0x2000 + id % 0x1000};
        ASSERT_TRUE(dictionary.add(id, 1, of, words));
        ASSERT_TRUE(dictionary.add(kCount + id, 1, DWUNW_OK, 0, same_frames()));
    }
    EXPECT_GT(dictionary.stacks(), 100u);
    EXPECT_LE(dictionary.bytes(), kLimit);
    EXPECT_GE(dictionary.without_room(), kCount - dictionary.stacks());
    EXPECT_EQ(look_up(dictionary, 1).status, DWUNW_OK) << "what is there stays";
    EXPECT_EQ(look_up(dictionary, kCount).status, DWUNW_ERR_LIMIT) << "not the same as unknown";
    const uint64_t without_room = dictionary.without_room();
    const std::array<__u64, 2> words = {kExact | 0x1100, 0x2001};
    EXPECT_TRUE(dictionary.add(1, 1, of, words)) << "known, which takes no room";
    EXPECT_EQ(dictionary.without_room(), without_room);
}

// Found in use: a storm of dlopen and dlclose gave 6,516 stacks so many ids that 256 MiB of copies were full after 65
// s.
TEST(StackStore, AKnownStackCostsAnIdAlone) {
    constexpr size_t kLimit = 1 << 20;
    constexpr uint64_t kLayouts = 20000;
    StackStore dictionary(kLimit);
    std::array<__u64, 100> deep{};
    for (size_t i = 0; i < deep.size(); ++i)
        deep[i] = 0x1100 + i;
    ASSERT_TRUE(dictionary.add(1, 42, layout(), deep));
    const size_t one = dictionary.bytes();
    for (uint64_t id = 2; id <= kLayouts; ++id)
        ASSERT_TRUE(dictionary.add(id, 42, layout(id), deep)) << "the map has changed, the stack has not";
    EXPECT_EQ(dictionary.without_room(), 0u);
    EXPECT_EQ(dictionary.size(), kLayouts);
    EXPECT_EQ(dictionary.stacks(), 1u);
    EXPECT_LE(dictionary.bytes() - one, kLayouts * 32) << "an id is 16 bytes, in a table that may be half full";
    for (uint64_t id = 1; id <= kLayouts; ++id)
        ASSERT_EQ(first_id(dictionary, id), 1u);
    EXPECT_EQ(look_up(dictionary, kLayouts, 200).frames.size(), deep.size());
}

// Many stacks have few frames: a program of some thousand call sites makes any number of stacks.
TEST(StackStore, AFrameIsKeptOnce) {
    constexpr uint64_t kStacks = 4000;
    StackStore dictionary;
    std::array<__u64, 64> words{};
    for (uint64_t id = 1; id <= kStacks; ++id) {
        for (size_t i = 0; i < words.size(); ++i)
            words[i] = 0x1100 + 2 * i + (id >> (i % 12) & 1);
        ASSERT_TRUE(dictionary.add(id, 42, layout(), words));
    }
    EXPECT_EQ(dictionary.stacks(), kStacks);
    EXPECT_LT(dictionary.bytes() / kStacks, words.size() * sizeof(uint32_t) + 160);
}

// An id alone takes room, too, and a target makes any number of them.
TEST(StackStore, IdsCountToItsLimitAndSayThatTheyFoundNoRoom) {
    constexpr size_t kLimit = 64 << 10;
    constexpr uint64_t kCount = 10000;
    StackStore dictionary(kLimit);
    const auto of = layout();
    for (uint64_t id = 1; id <= kCount; ++id)
        ASSERT_TRUE(dictionary.add(id, 1, of, kWords));
    EXPECT_LE(dictionary.bytes(), kLimit);
    EXPECT_GT(dictionary.size(), 1000u);
    EXPECT_EQ(dictionary.size() + dictionary.without_room(), kCount);
    EXPECT_EQ(look_up(dictionary, kCount).status, DWUNW_ERR_LIMIT);
    EXPECT_EQ(look_up(dictionary, kCount + 1).status, DWUNW_ERR_NOT_FOUND);
}

TEST(StackStore, ForgetsStacksThatAreNotNeeded) {
    StackStore dictionary;
    const auto same = same_frames();
    const std::vector frames(same.begin(), same.end());
    ASSERT_TRUE(dictionary.add(1, 42, layout(), kWords));
    ASSERT_TRUE(dictionary.add(2, 42, layout(), kWords));
    ASSERT_TRUE(dictionary.add(3, 42, DWUNW_OK, DWUNW_BPF_FORCED, frames)) << "the same, found otherwise";
    ASSERT_TRUE(dictionary.add(4, 43, layout(), kWords));
    ASSERT_TRUE(dictionary.add(5, 43, layout(), kWords));
    const size_t before = dictionary.bytes();
    std::set<uint64_t> unneeded;
    const auto retain = [&](std::set<uint64_t> needed) {
        unneeded.clear();
        dictionary.retain([&](uint64_t id) { return needed.contains(id); }, [&](uint64_t id) { unneeded.insert(id); });
    };
    retain({3, 5});
    EXPECT_EQ(dictionary.size(), 5u) << "an id that was held when the list was made is in the next one";
    EXPECT_EQ(unneeded, (std::set<uint64_t>{1, 2, 4}));
    retain({3, 5});
    EXPECT_TRUE(unneeded.empty());
    EXPECT_EQ(dictionary.size(), 4u);
    EXPECT_EQ(dictionary.forgotten(), 1u);
    EXPECT_EQ(look_up(dictionary, 2).status, DWUNW_ERR_NOT_FOUND);
    EXPECT_EQ(first_id(dictionary, 3), 1u);
    EXPECT_EQ(look_up(dictionary, 1).frames.size(), 2u) << "the id that lookup gives is one to look up";
    EXPECT_EQ(look_up(dictionary, 3).frames[1].source, static_cast<uint32_t>(DWUNW_SOURCE_FRAME_POINTER));
    EXPECT_EQ(first_id(dictionary, 5), 4u);
    retain({});
    EXPECT_EQ(dictionary.size(), 4u);
    dictionary.touch(3);
    retain({});
    EXPECT_EQ(dictionary.size(), 2u) << "3, which has come again, and 1, its stack's first";
    EXPECT_EQ(look_up(dictionary, 3).frames.size(), 2u);
    retain({});
    EXPECT_EQ(dictionary.size(), 0u);
    EXPECT_EQ(dictionary.stacks(), 0u);
    EXPECT_LT(dictionary.bytes(), before);
    ASSERT_TRUE(dictionary.add(2, 42, layout(), kWords));
    EXPECT_EQ(first_id(dictionary, 2), 2u);
}

} // namespace
} // namespace dwunw::bpf
