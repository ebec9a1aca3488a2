// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/map_watch.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace dwunw::bpf {
namespace {

// A record as perf_event_open(2) lays it out, its time at the end.
std::vector<uint8_t> record(uint32_t protection, const std::string &name, uint64_t time, uint64_t inode = 7) {
    constexpr size_t kHead = 72;
    const size_t with_name = (kHead + name.size() + 8) / 8 * 8;
    std::vector<uint8_t> made(with_name + 8);
    const auto put = [&](size_t at, auto value) { std::memcpy(made.data() + at, &value, sizeof(value)); };
    put(0, uint32_t{PERF_RECORD_MMAP2});
    put(8, uint32_t{42});
    put(16, uint64_t{0x7000});
    put(24, uint64_t{0x2000});
    put(32, uint64_t{0x1000});
    put(40, uint32_t{8});
    put(44, uint32_t{1});
    put(48, inode);
    put(64, protection);
    put(68, uint32_t{MAP_PRIVATE});
    std::memcpy(made.data() + kHead, name.data(), name.size());
    put(made.size() - 8, time);
    put(6, static_cast<uint16_t>(made.size()));
    return made;
}

TEST(MapWatch, ARecordIsReadWhole) {
    int32_t pid = 0;
    const auto mapped = MapWatch::parse(record(PROT_READ | PROT_EXEC, "/lib/plugin.so", 99), pid);
    ASSERT_NE(mapped, nullptr);
    EXPECT_EQ(pid, 42);
    EXPECT_EQ(mapped->time, 99u);
    EXPECT_EQ(mapped->mapping.start, RunAddr(0x7000));
    EXPECT_EQ(mapped->mapping.end, RunAddr(0x9000));
    EXPECT_EQ(mapped->mapping.offset, FileOffset(0x1000));
    EXPECT_EQ(mapped->mapping.inode, 7u);
    EXPECT_EQ(mapped->mapping.device_major, 8u);
    EXPECT_EQ(mapped->mapping.device_minor, 1u);
    EXPECT_EQ(mapped->mapping.path, "/lib/plugin.so");
    EXPECT_EQ(mapped->mapping.kind, process::Mapping::Kind::kFile);
    EXPECT_TRUE(mapped->mapping.executable && mapped->mapping.readable && !mapped->mapping.writable);
    EXPECT_EQ(MapWatch::parse(record(PROT_EXEC, "//anon", 1, 0), pid)->mapping.kind,
              process::Mapping::Kind::kAnonymous);
}

TEST(MapWatch, BytesThatAreNotARecord) {
    int32_t pid = 0;
    const auto good = record(PROT_EXEC, "x", 1);
    for (size_t size = 0; size < 80; ++size)
        EXPECT_EQ(MapWatch::parse(std::span(good).first(size), pid), nullptr) << size;
    EXPECT_EQ(MapWatch::parse(record(PROT_READ, "x", 1), pid), nullptr) << "no code";
    auto odd = good;
    std::memset(odd.data() + 24, 0xff, 8);
    EXPECT_EQ(MapWatch::parse(odd, pid), nullptr) << "past the end of all addresses";
    odd = good;
    std::memset(odd.data() + 24, 0, 8);
    EXPECT_EQ(MapWatch::parse(odd, pid), nullptr) << "empty";
    odd = good;
    odd[0] = PERF_RECORD_MMAP;
    EXPECT_EQ(MapWatch::parse(odd, pid), nullptr);
}

TEST(MapWatch, AnExecsRecord) {
    const auto comm = [](uint16_t misc) {
        std::vector<uint8_t> made(32);
        const perf_event_header header{PERF_RECORD_COMM, misc, 32};
        std::memcpy(made.data(), &header, sizeof(header));
        made[8] = 42;
        made[16] = 'x';
        made[24] = 99;
        return made;
    };
    int32_t pid = 0;
    const auto good = comm(PERF_RECORD_MISC_COMM_EXEC);
    EXPECT_EQ(MapWatch::parse_exec(good, pid), 99u);
    EXPECT_EQ(pid, 42);
    EXPECT_EQ(MapWatch::parse_exec(comm(0), pid), std::nullopt) << "a new name alone";
    EXPECT_EQ(MapWatch::parse_exec(record(PROT_EXEC, "x", 1), pid), std::nullopt);
    for (size_t size = 0; size < 24; ++size)
        EXPECT_EQ(MapWatch::parse_exec(std::span(good).first(size), pid), std::nullopt) << size;
}

class LiveMapWatch : public ::testing::Test {
  protected:
    void SetUp() override {
        if (watch_.open())
            return;
        const char *required = std::getenv("DWUNW_REQUIRE_BPF");
        if (required != nullptr && std::string(required) == "1")
            FAIL() << "perf_event_open is refused";
        GTEST_SKIP() << "skipped: perf_event_open is refused";
    }
    bool drain(pid_t wanted = ::getpid()) {
        return watch_.drain([&](int32_t pid) { return pid == wanted; },
                            [&](const MapWatch::Came &came) {
                                if (came.mapped != nullptr)
                                    came_.push_back(came.mapped);
                                else
                                    execs_.push_back(came.time);
                            });
    }
    MapWatch watch_;
    std::vector<std::shared_ptr<Mapped>> came_;
    std::vector<uint64_t> execs_;
};

// All that a program maps comes after its exec, and a new name is no exec.
TEST_F(LiveMapWatch, AnExecComesBeforeItsMappings) {
    ::prctl(PR_SET_NAME, "another");
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::prctl(PR_SET_NAME, "a third");
        (void)::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ::execl("/bin/true", "true", nullptr);
        ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    EXPECT_TRUE(drain(child));
    ASSERT_EQ(execs_.size(), 1u);
    ASSERT_GE(came_.size(), 3u) << "the code of the child before, of the program and of its loader";
    EXPECT_LT(came_[0]->time, execs_[0]);
    EXPECT_LT(execs_[0], came_[1]->time);
    EXPECT_TRUE(came_[1]->path.ends_with("/true")) << came_[1]->path;
}

TEST_F(LiveMapWatch, CodeThatComesAndGoes) {
    const int file = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status {};
    ASSERT_EQ(::fstat(file, &status), 0);
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const auto before = static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
    void *code = ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    ASSERT_NE(code, MAP_FAILED);
    ::munmap(code, 4096);
    void *data = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, file, 0);
    EXPECT_TRUE(drain());
    ASSERT_EQ(came_.size(), 1u) << "data is of no interest";
    EXPECT_EQ(came_[0]->mapping.start.value, reinterpret_cast<uintptr_t>(code));
    EXPECT_EQ(came_[0]->mapping.inode, status.st_ino);
    EXPECT_GE(came_[0]->time, before);
    EXPECT_LE(came_[0]->time, watch_.drained());
    ::mprotect(data, 4096, PROT_READ | PROT_EXEC);
    EXPECT_TRUE(drain());
    EXPECT_EQ(came_.size(), 2u) << "it has become code";
    ::munmap(data, 4096);
    ::close(file);
}

// What finds no room must not go unnoticed.
TEST_F(LiveMapWatch, MoreThanThereIsRoomFor) {
    constexpr int kMany = 60000;
    for (int i = 0; i < kMany; ++i) {
        void *code = ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(code, MAP_FAILED);
        ::munmap(code, 4096);
    }
    EXPECT_FALSE(drain());
    EXPECT_LT(came_.size(), size_t{kMany});
    EXPECT_EQ(watch_.losses(), 1u);
    drain(); // the kernel tells of it with the next record
    EXPECT_TRUE(drain());
}

} // namespace
} // namespace dwunw::bpf
