// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Whether examples/memleak_bcc_dwunw's target has ended: by a pidfd and, as on a kernel without pidfds, by its start
// time.
extern "C" {
#include "dwunw_target.h"
}

#include "process_testing.h"

#include <thread>

namespace {

using dwunw::testing::Child;
using dwunw::testing::soon;

class MemleakTargetTest : public ::testing::TestWithParam<bool> {
  protected:
    ~MemleakTargetTest() override { dwunw_target__close(&target_); }
    void open(pid_t pid) {
        dwunw_target__open(&target_, pid);
        ASSERT_EQ(target_.pid, pid);
        ASSERT_GE(target_.fd, 0);
        if (GetParam())
            return;
        ::close(target_.fd);
        target_.fd = -1;
        // As it would have been read, from a second look at /proc.
        std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
        std::string text;
        std::getline(stat, text);
        std::istringstream fields(text.substr(text.rfind(')') + 2));
        std::string field;
        for (int number = 3; number <= 22; ++number)
            fields >> field;
        target_.starttime = std::stoull(field);
    }

    dwunw_target target_{};
};

TEST_P(MemleakTargetTest, AZombieHasEnded) {
    Child child([](const Child::Line &line) { line.hear(); });
    open(child.pid());
    EXPECT_FALSE(dwunw_target__has_ended(&target_));
    child.kill_to_zombie();
    EXPECT_TRUE(soon([&] { return dwunw_target__has_ended(&target_); }));
    child.reap();
    EXPECT_TRUE(dwunw_target__has_ended(&target_));
    dwunw_target__wait(&target_, GetParam() ? -1 : 0); // comes back
}

TEST_P(MemleakTargetTest, LivesOnWhereItsFirstThreadHasEnded) {
    Child child([](const Child::Line &line) {
        std::thread([&] {
            // Its leader is a zombie as soon as it has gone.
            while (soon([] { return true; })) {
                std::ifstream stat("/proc/self/task/" + std::to_string(::getpid()) + "/stat");
                std::string text;
                std::getline(stat, text);
                if (text.find(") Z ") != std::string::npos)
                    break;
                ::sched_yield();
            }
            line.say();
            line.hear();
            ::_exit(0);
        }).detach();
        ::syscall(SYS_exit, 0);
    });
    open(child.pid());
    child.hear();
    EXPECT_FALSE(dwunw_target__has_ended(&target_));
    child.say();
    EXPECT_TRUE(soon([&] { return dwunw_target__has_ended(&target_); }));
}

INSTANTIATE_TEST_SUITE_P(ByPidfdAndByStart, MemleakTargetTest, ::testing::Bool());

TEST(MemleakTarget, AnotherProcessOfItsNumber) {
    dwunw_target target{};
    target.pid = ::getpid();
    target.fd = -1;
    target.starttime = 1; // that of the one before
    EXPECT_TRUE(dwunw_target__has_ended(&target));
}

TEST(MemleakTarget, AProcessThatDoesNotExistIsNoTarget) {
    Child child([](const Child::Line &) {});
    const pid_t pid = child.pid();
    child.kill_to_zombie();
    child.reap();
    dwunw_target target{};
    dwunw_target__open(&target, pid);
    EXPECT_EQ(target.pid, 0);
    EXPECT_FALSE(dwunw_target__has_ended(&target));
    dwunw_target__close(&target);
}

} // namespace
