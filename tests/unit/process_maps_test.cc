// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/maps.h"

#include "process_testing.h"

#include <sys/auxv.h>

#include <array>

namespace dwunw::process {
namespace {

using testing::Child;
using Kind = Mapping::Kind;

Result<Maps> parse(std::string_view text, Maps::Order order = Maps::Order::kStrict) {
    return Maps::parse({text.begin(), text.end()}, order);
}

UniqueFd open_maps(pid_t pid) {
    return UniqueFd(::open(("/proc/" + std::to_string(pid) + "/maps").c_str(), O_RDONLY | O_CLOEXEC));
}

constexpr std::string_view kText =
    "55d4b2a00000-55d4b2a01000 r--p 00000000 fe:00 332383                     /usr/bin/some thing\n"
    "55d4b2a01000-55d4b2a02000 r-xp 00001000 fe:00 332383                     /usr/bin/some thing\n"
    "55d4b3000000-55d4b3021000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0000000000-7f0000001000 rwxp 00000000 00:00 0 \n"
    "7f0000001000-7f0000002000 r-xs 00003000 103:1a 18446744073709551615      /tmp/a\\012b (deleted)\n"
    "7f0000003000-7f0000004000 --xp 00000000 00:00 0                          [uprobes]\n"
    "7f0000005000-7f0000006000 r-xp 00000000 00:00 0                          [uprobes-trampoline]\n"
    "7f0000007000-7f0000009000 r-xp 00000000 00:00 0                          [vdso]\n"
    "7ffc1dafb000-7ffc1db1c000 rw-p 00000000 00:00 0                          [stack]\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

TEST(Maps, EveryFieldOfALine) {
    auto maps = parse(kText);
    ASSERT_TRUE(maps);
    const auto &m = maps->mappings();
    ASSERT_EQ(m.size(), 10u);

    EXPECT_EQ(m[1].start, RunAddr(0x55d4b2a01000));
    EXPECT_EQ(m[1].end, RunAddr(0x55d4b2a02000));
    EXPECT_EQ(m[1].offset, FileOffset(0x1000));
    EXPECT_EQ(m[1].device_major, 0xfeu);
    EXPECT_EQ(m[1].device_minor, 0u);
    EXPECT_EQ(m[1].inode, 332383u);
    EXPECT_TRUE(m[1].readable && m[1].executable && !m[1].writable && !m[1].shared);
    EXPECT_EQ(m[1].path, "/usr/bin/some thing");
    EXPECT_TRUE(m[0].same_file(m[1]));

    EXPECT_EQ(m[3].path, "");
    EXPECT_TRUE(m[3].writable && m[3].executable);
    EXPECT_EQ(m[3].kind, Kind::kAnonymous);

    EXPECT_EQ(m[4].path, "/tmp/a\nb (deleted)");
    EXPECT_TRUE(m[4].deleted);
    EXPECT_TRUE(m[4].shared);
    EXPECT_EQ(m[4].inode, UINT64_MAX);
    EXPECT_EQ(m[4].device_major, 0x103u);
    EXPECT_EQ(m[4].device_minor, 0x1au);

    const std::array kinds = {Kind::kFile,
                              Kind::kFile,
                              Kind::kAnonymous,
                              Kind::kAnonymous,
                              Kind::kFile,
                              Kind::kUprobeTrampoline,
                              Kind::kUprobeTrampoline,
                              Kind::kVdso,
                              Kind::kAnonymous,
                              Kind::kAnonymous};
    for (size_t i = 0; i < kinds.size(); ++i)
        EXPECT_EQ(m[i].kind, kinds[i]) << m[i].path;
}

TEST(Maps, AFileIsNotTheKernelsForItsName) {
    auto maps = parse("1000-2000 r-xp 00000000 fe:00 12 [vdso]\n"
                      "2000-3000 r-xp 00000000 fe:00 13 [uprobes]\n");
    ASSERT_TRUE(maps);
    EXPECT_EQ(maps->mappings()[0].kind, Kind::kFile);
    EXPECT_EQ(maps->mappings()[1].kind, Kind::kFile);
}

TEST(Maps, MemoryFilesAreToldByTheirNames) {
    auto maps = parse("1000-2000 r-xs 00000000 00:01 12 /memfd:jit (deleted)\n"
                      "2000-3000 r-xs 00000000 00:01 13 /dev/shm/x\n"
                      "3000-4000 r-xs 00000000 00:01 14 /usr/lib/libx.so\n"
                      "4000-5000 r-xs 00000000 00:01 15 /dev/zero (deleted)\n");
    ASSERT_TRUE(maps);
    EXPECT_TRUE(maps->mappings()[0].is_memory_file());
    EXPECT_TRUE(maps->mappings()[1].is_memory_file());
    EXPECT_FALSE(maps->mappings()[2].is_memory_file());
    EXPECT_TRUE(maps->mappings()[3].is_memory_file());
}

TEST(Maps, FindIsExactAtBothEnds) {
    auto maps = parse(kText);
    ASSERT_TRUE(maps);
    EXPECT_EQ(maps->find(RunAddr(0)), nullptr);
    EXPECT_EQ(maps->find(RunAddr(0x55d4b29fffff)), nullptr);
    for (const Mapping &mapping : maps->mappings()) {
        EXPECT_EQ(maps->find(mapping.start), &mapping);
        EXPECT_EQ(maps->find(mapping.end - 1), &mapping);
        EXPECT_NE(maps->find(mapping.end), &mapping);
    }
    EXPECT_EQ(maps->find(RunAddr(0x7f0000002000)), nullptr);
    EXPECT_EQ(maps->find(RunAddr(UINT64_MAX)), nullptr);
    EXPECT_EQ(Maps().find(RunAddr(0)), nullptr);
}

TEST(Maps, MappingsOfOneFile) {
    auto maps = parse("1000-2000 r-xp 00000000 00:01 12 /a\n"
                      "2000-3000 r-xp 00000000 00:01 13 /a\n"
                      "3000-4000 r-xp 00000000 00:02 12 /a\n"
                      "4000-5000 r-xp 00000000 00:01 12 /b\n"
                      "5000-6000 rw-p 00005000 00:01 12 /a\n"
                      "6000-7000 rw-p 00000000 00:00 0 \n");
    ASSERT_TRUE(maps);
    const Maps moved = std::move(*maps);
    for (const Mapping &mapping : moved.mappings()) {
        std::vector<uint32_t> expected;
        for (const Mapping &other : moved.mappings())
            if (other.same_file(mapping))
                expected.push_back(static_cast<uint32_t>(moved.index_of(other)));
        EXPECT_TRUE(std::ranges::equal(moved.of_same_file(mapping), expected)) << mapping.start.value;
    }
    Mapping other = moved.mappings()[0];
    other.path = "/c";
    EXPECT_TRUE(moved.of_same_file(other).empty());
    EXPECT_TRUE(Maps().of_same_file(other).empty());
}

TEST(Maps, EmptyTextAndMissingLastNewline) {
    auto none = parse("");
    ASSERT_TRUE(none);
    EXPECT_TRUE(none->mappings().empty());
    auto one = parse("1000-2000 r-xp 00000000 00:00 0");
    ASSERT_TRUE(one);
    EXPECT_EQ(one->mappings().size(), 1u);
}

// Breaks every line in every way of a list, one at a time: the error names that line.
TEST(Maps, AMalformedLineIsNamed) {
    std::vector<std::string> lines;
    for (size_t begin = 0; begin < kText.size();) {
        const size_t end = kText.find('\n', begin);
        lines.emplace_back(kText.substr(begin, end - begin));
        begin = end + 1;
    }
    const std::vector<std::function<std::string(std::string)>> breaks = {
        [](std::string) { return std::string(); },
        [](std::string) { return std::string("garbage"); },
        [](std::string s) { return " " + s; },
        [](std::string s) { return "x" + s; },
        [](std::string s) { return "1" + std::string(16, '0') + s; }, // more than 64 bits
        [](std::string s) { return s.replace(s.find('-'), 1, "_"); },
        [](std::string s) {
            return s.replace(s.find('-') + 1, s.find(' ') - s.find('-') - 1, s.substr(0, s.find('-')));
        },
        [](std::string s) { return s.replace(s.find(' ') + 1, 1, "R"); },
        [](std::string s) { return s.replace(s.find(' ') + 4, 1, "-"); },
        [](std::string s) { return s.replace(s.find(' ') + 6, 8, "0000000g"); },
        [](std::string s) { return s.replace(s.find(':'), 1, " "); },
        [](std::string s) { return s.replace(s.find(':') + 1, 2, "zz"); },
        [](std::string s) { return s.insert(s.find(' ', s.find(':')) + 1, "-"); },
        [](std::string s) { return s.substr(0, s.find(' ', s.find(':'))); },
        [](std::string s) { return s.replace(s.find(' ') + 6, 8, "fffffffffffffff0"); }, // offset + length > 2^64
    };
    for (size_t line = 0; line < lines.size(); ++line) {
        for (size_t way = 0; way < breaks.size(); ++way) {
            auto broken = lines;
            broken[line] = breaks[way](broken[line]);
            std::string text;
            for (const std::string &each : broken)
                text += each + "\n";
            const auto maps = parse(text);
            ASSERT_FALSE(maps) << "line " << line + 1 << " broken in way " << way << ": " << broken[line];
            EXPECT_EQ(maps.error().status, DWUNW_ERR_MAPS_MALFORMED);
            EXPECT_EQ(maps.error().value, line + 1) << way;
        }
    }
}

// Every byte replaced by every other kind of byte, and every prefix: an answer or an error, and addresses in order.
// Found in use: it was taken for memory without a file, without a word.
TEST(Maps, ARelativePathIsMalformedInAText) {
    const auto parse = [](std::string_view path, Maps::Order order, const char *inode = "0") {
        const std::string text = "1000-2000 r-xp 00000000 00:00 0 \n"
                                 "2000-3000 r-xp 00000000 00:00 " +
                                 std::string(inode) + " " + std::string(path) + "\n";
        return Maps::parse({text.begin(), text.end()}, order);
    };
    for (const char *path : {"bin/program", "program", "./program", "../lib/libc.so.6"})
        for (const char *inode : {"0", "77"}) {
            const auto maps = parse(path, Maps::Order::kStrict, inode);
            ASSERT_FALSE(maps) << path;
            EXPECT_EQ(maps.error().status, DWUNW_ERR_MAPS_MALFORMED);
            EXPECT_EQ(maps.error().value, 2u);
            EXPECT_TRUE(parse(path, Maps::Order::kLive, inode)) << "the kernel's own map is as it is";
        }
    // The kernel's own names, and a file that its process cannot reach.
    for (const char *path : {"[heap]", "[anon:name]", "anon_inode:[perf_event]", "socket:[1234]",
                             "(unreachable)/usr/bin/program", "//anon", "/memfd:x (deleted)", ""})
        EXPECT_TRUE(parse(path, Maps::Order::kStrict, "77")) << path;
}

TEST(Maps, NoByteMakesItFallOver) {
    const std::string text(kText);
    auto check = [](const Result<Maps> &maps) {
        if (!maps) {
            EXPECT_EQ(maps.error().status, DWUNW_ERR_MAPS_MALFORMED);
            return;
        }
        RunAddr last;
        for (const Mapping &mapping : maps->mappings()) {
            EXPECT_LT(mapping.start, mapping.end);
            EXPECT_GE(mapping.start, last);
            last = mapping.end;
        }
    };
    for (const auto order : {Maps::Order::kStrict, Maps::Order::kLive}) {
        for (size_t i = 0; i < text.size(); ++i) {
            check(parse(text.substr(0, i), order));
            check(parse(text.substr(i), order));
            for (const char c : {'\0', '\n', ' ', '-', ':', '0', 'f', 'x', '\\', '\xff'}) {
                std::string changed = text;
                changed[i] = c;
                check(parse(changed, order));
            }
        }
    }
}

TEST(Maps, OverlapIsMalformedInATextAndSettledInALiveMap) {
    constexpr std::string_view kOverlap = "1000-3000 r-xp 00000000 00:00 0 \n"
                                          "4000-5000 r-xp 00000000 00:00 0 \n"
                                          "2000-6000 rw-p 00000000 00:00 0 \n";
    auto strict = parse(kOverlap);
    ASSERT_FALSE(strict);
    EXPECT_EQ(strict.error().value, 3u);

    auto live = parse(kOverlap, Maps::Order::kLive);
    ASSERT_TRUE(live);
    ASSERT_EQ(live->mappings().size(), 2u);
    EXPECT_EQ(live->find(RunAddr(0x1fff))->end, RunAddr(0x2000));
    EXPECT_TRUE(live->find(RunAddr(0x2000))->writable);
    EXPECT_TRUE(live->find(RunAddr(0x4000))->writable);
}

TEST(Maps, ATextTooLongIsRefused) {
    const auto maps = Maps::parse(std::vector<char>(kMaxMapsBytes + 1, '\n'), Maps::Order::kStrict);
    ASSERT_FALSE(maps);
    EXPECT_EQ(maps.error().status, DWUNW_ERR_LIMIT);
}

TEST(Maps, ItsOwnMapIsRead) {
    const UniqueFd fd = open_maps(::getpid());
    auto maps = Maps::read(fd.get());
    ASSERT_TRUE(maps);
    const Mapping *code = maps->find(RunAddr(reinterpret_cast<uint64_t>(&open_maps)));
    ASSERT_NE(code, nullptr);
    EXPECT_TRUE(code->executable);
    EXPECT_EQ(code->path, std::filesystem::read_symlink("/proc/self/exe").string());
    struct stat status;
    ASSERT_EQ(::stat("/proc/self/exe", &status), 0);
    EXPECT_EQ(code->inode, status.st_ino);

    const Mapping *vdso = maps->find(RunAddr(::getauxval(AT_SYSINFO_EHDR)));
    ASSERT_NE(vdso, nullptr);
    EXPECT_EQ(vdso->kind, Kind::kVdso);
    int local = 0;
    const Mapping *stack = maps->find(RunAddr(reinterpret_cast<uint64_t>(&local)));
    ASSERT_NE(stack, nullptr);
    EXPECT_FALSE(stack->executable);
}

TEST(Maps, ThreeThousandMappings) {
    constexpr size_t kCount = 3000;
    const size_t page = testing::page_size();
    Child child([&](const Child::Line &line) {
        auto *base =
            static_cast<uint8_t *>(::mmap(nullptr, 2 * kCount * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        for (size_t i = 0; i < kCount; ++i)
            ::mprotect(base + 2 * i * page, page, PROT_READ | PROT_EXEC);
        line.say(reinterpret_cast<uint64_t>(base));
        line.hear();
    });
    const uint64_t base = child.hear();
    const UniqueFd fd = open_maps(child.pid());
    auto maps = Maps::read(fd.get());
    ASSERT_TRUE(maps);
    ASSERT_GE(maps->mappings().size(), 2 * kCount - 1);
    for (size_t i = 0; i < 2 * kCount - 1; ++i) {
        const Mapping *mapping = maps->find(RunAddr(base + i * page + 7));
        ASSERT_NE(mapping, nullptr);
        EXPECT_EQ(mapping->executable, i % 2 == 0) << i;
    }
}

TEST(Maps, ADescriptorIsTiedToItsAddressSpace) {
    Child child([](const Child::Line &line) {
        line.hear();
        ::dup2(line.in.get(), 0);
        line.say();
        ::execl("/bin/cat", "cat", nullptr);
    });
    const UniqueFd fd = open_maps(child.pid());
    auto before = Maps::read(fd.get());
    ASSERT_TRUE(before);
    EXPECT_FALSE(before->mappings().empty());
    const RunAddr code(reinterpret_cast<uint64_t>(&open_maps));
    const auto found = query_mapping(fd.get(), code).outcome;
    EXPECT_TRUE(found == MappingQuery::Outcome::kFound || found == MappingQuery::Outcome::kUnsupported);

    child.say();
    child.hear();
    // Its pipe to us closes with the exec.
    EXPECT_FALSE(child.still_talking());
    auto executed = Maps::read(fd.get());
    ASSERT_TRUE(executed);
    EXPECT_TRUE(executed->mappings().empty());

    child.kill_to_zombie();
    auto zombie = Maps::read(fd.get());
    ASSERT_TRUE(zombie);
    EXPECT_TRUE(zombie->mappings().empty());
    EXPECT_EQ(query_mapping(fd.get(), code).outcome,
              found == MappingQuery::Outcome::kFound ? MappingQuery::Outcome::kGone : found);

    child.reap();
    const auto gone = Maps::read(fd.get());
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().status, DWUNW_ERR_NO_PROCESS);
}

TEST(MappingQuery, AgreesWithTheMap) {
    const UniqueFd fd = open_maps(::getpid());
    auto maps = Maps::read(fd.get());
    ASSERT_TRUE(maps);
    const Mapping *code = maps->find(RunAddr(reinterpret_cast<uint64_t>(&open_maps)));
    ASSERT_NE(code, nullptr);
    const MappingQuery query = query_mapping(fd.get(), code->start + 5);
    if (query.outcome == MappingQuery::Outcome::kUnsupported)
        GTEST_SKIP() << "skipped: PROCMAP_QUERY needs Linux 6.11";
    ASSERT_EQ(query.outcome, MappingQuery::Outcome::kFound);
    Mapping asked = query.mapping;
    asked.path = code->path;
    asked.kind = code->kind;
    EXPECT_EQ(asked, *code);
    EXPECT_EQ(query_mapping(fd.get(), RunAddr(0x10)).outcome, MappingQuery::Outcome::kUnmapped);
}

TEST(MappingQuery, UnsupportedIsSaid) {
    const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(query_mapping(fd.get(), RunAddr(0)).outcome, MappingQuery::Outcome::kUnsupported);
}

} // namespace
} // namespace dwunw::process
