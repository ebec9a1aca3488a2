// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Address spaces of processes whose main thread has ended, of zombies, and of processes that the test may not read.
#include "process/live_target.h"

#include "process/maps.h"
#include "process_testing.h"

#include <algorithm>
#include <array>
#include <thread>

namespace dwunw::process {
namespace {

using testing::Child;

constexpr std::array<uint8_t, 64> shown{1, 2, 3};

struct Opened {
    explicit Opened(pid_t pid)
        : directory(testing::take(ProcDir::open(pid))), target(testing::take(LiveTarget::open(directory))) {}
    ProcDir directory;
    std::shared_ptr<const LiveTarget> target;
};

TEST(LiveTarget, OfAProcessWhoseMainThreadHasEnded) {
    Child child([](const Child::Line &line) {
        std::thread([&line] {
            line.hear();
            line.say(reinterpret_cast<uint64_t>(&shown));
            line.hear();
            ::_exit(0);
        }).detach();
        ::syscall(SYS_exit, 0); // unlike pthread_exit it does not unwind, which would close the line
    });
    auto directory = ProcDir::open(child.pid());
    ASSERT_TRUE(directory);
    while (directory->state(child.pid()) != ProcDir::State::kZombie)
        ::sched_yield();
    child.say();
    const uint64_t address = child.hear();
    const Opened opened(child.pid());
    auto maps = Maps::read(opened.target->maps_fd());
    ASSERT_TRUE(maps);
    EXPECT_NE(maps->find(RunAddr(address)), nullptr);
    std::array<uint8_t, sizeof(shown)> buffer{};
    EXPECT_EQ(opened.target->read(RunAddr(address), buffer), sizeof(shown));
    EXPECT_TRUE(std::ranges::equal(buffer, shown));
    EXPECT_EQ(::faccessat(opened.target->directory_fd(), "map_files", R_OK, 0), 0);
}

TEST(LiveTarget, WithoutAnAddressSpaceTheMapIsEmpty) {
    Child child([](const Child::Line &) {});
    child.wait_for_zombie();
    const Opened opened(child.pid());
    auto maps = Maps::read(opened.target->maps_fd());
    ASSERT_TRUE(maps);
    EXPECT_TRUE(maps->mappings().empty());
}

TEST(LiveTarget, WithoutRightsItIsNotOpened) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    const pid_t other = ::getpid();
    Child child([&](const Child::Line &line) {
        if (::setresuid(65534, 65534, 65534) != 0)
            ::_exit(1);
        auto directory = ProcDir::open(other);
        auto target = directory ? LiveTarget::open(*directory) : directory.error();
        line.say(target ? DWUNW_OK : target.error().status);
    });
    EXPECT_EQ(child.hear(), DWUNW_ERR_PERMISSION);
}

// A mapping that another took the place of is not the one that the map shows.
TEST(LiveTarget, AReplacedMappingIsNotStillMapped) {
    const size_t page = testing::page_size();
    void *const at = ::mmap(nullptr, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    const Opened self(::getpid());
    const auto maps = testing::take(Maps::read(self.target->maps_fd()));
    const Mapping *mapping = maps.find(RunAddr(reinterpret_cast<uint64_t>(at)));
    ASSERT_NE(mapping, nullptr);
    EXPECT_TRUE(self.target->still_mapped(*mapping));
    const int file = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ASSERT_NE(::mmap(at, page, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0), MAP_FAILED);
    EXPECT_FALSE(self.target->still_mapped(*mapping));
    ::munmap(at, page);
    EXPECT_FALSE(self.target->still_mapped(*mapping));
    ::close(file);
}

} // namespace
} // namespace dwunw::process
