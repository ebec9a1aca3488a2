// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/proc_dir.h"

#include "process_testing.h"

#include <sys/prctl.h>

#include <algorithm>
#include <thread>

namespace dwunw::process {
namespace {

using State = ProcDir::State;
using testing::Child;

TEST(ProcDir, AProcessFromLifeToGone) {
    Child child([](const Child::Line &line) { line.hear(); });
    auto directory = ProcDir::open(child.pid());
    ASSERT_TRUE(directory);
    EXPECT_EQ(directory->state(), State::kAlive);
    EXPECT_EQ(directory->threads(), std::vector<pid_t>{child.pid()});
    EXPECT_TRUE(directory->open_file("maps", O_RDONLY));

    child.kill_to_zombie();
    EXPECT_EQ(directory->state(), State::kZombie);
    EXPECT_TRUE(ProcDir::open(child.pid()));

    const pid_t pid = child.pid();
    child.reap();
    EXPECT_EQ(directory->state(), State::kGone);
    EXPECT_TRUE(directory->threads().empty());
    EXPECT_EQ(directory->thread_name(pid), "");
    const auto maps = directory->open_file("maps", O_RDONLY);
    ASSERT_FALSE(maps);
    EXPECT_EQ(maps.error().status, DWUNW_ERR_NO_PROCESS);
    const auto again = ProcDir::open(pid);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().status, DWUNW_ERR_NO_PROCESS);
}

TEST(ProcDir, ANumberTakenByAnotherProcessIsNotTheProcess) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    auto first = std::make_unique<Child>([](const Child::Line &line) { line.hear(); });
    const pid_t pid = first->pid();
    auto directory = ProcDir::open(pid);
    ASSERT_TRUE(directory);
    first.reset();
    Child second([](const Child::Line &line) { line.hear(); }, pid);
    ASSERT_EQ(second.pid(), pid) << std::strerror(second.error());
    EXPECT_EQ(directory->state(), State::kGone);
    EXPECT_FALSE(directory->open_file("maps", O_RDONLY));
    EXPECT_TRUE(directory->threads().empty());
    EXPECT_EQ(ProcDir::open(pid)->state(), State::kAlive);
}

TEST(ProcDir, ThreadsAndTheirNames) {
    Child child([](const Child::Line &line) {
        ::prctl(PR_SET_NAME, "main) Z 1 2"); // looks like the end of a stat line
        std::thread other([&] {
            ::prctl(PR_SET_NAME, "fifteen-letters");
            line.say(static_cast<uint64_t>(::gettid()));
            line.hear();
        });
        other.join();
    });
    const auto tid = static_cast<pid_t>(child.hear());
    auto directory = ProcDir::open(child.pid());
    ASSERT_TRUE(directory);
    EXPECT_EQ(directory->threads(), (std::vector<pid_t>{child.pid(), tid}));
    EXPECT_EQ(directory->thread_name(tid), "fifteen-letters");
    EXPECT_EQ(directory->thread_name(child.pid()), "main) Z 1 2");
    EXPECT_EQ(directory->state(), State::kAlive);
    EXPECT_EQ(directory->state(tid), State::kAlive);
    EXPECT_EQ(directory->state(tid + 100000), State::kGone);
}

TEST(ProcDir, AProcessWhoseMainThreadHasEndedIsAlive) {
    Child child([](const Child::Line &line) {
        std::thread([&] {
            line.hear();
            line.say(static_cast<uint64_t>(::gettid()));
            line.hear();
            ::_exit(0);
        }).detach();
        ::syscall(SYS_exit, 0); // unlike pthread_exit it does not unwind, which would close the line
    });
    auto directory = ProcDir::open(child.pid());
    ASSERT_TRUE(directory);
    while (directory->state(child.pid()) != State::kZombie)
        ::sched_yield();
    child.say();
    const auto tid = static_cast<pid_t>(child.hear());
    EXPECT_EQ(directory->state(), State::kAlive);
    EXPECT_EQ(directory->state(tid), State::kAlive);
    EXPECT_EQ(directory->parent(), ::getpid());
    child.kill_to_zombie();
    EXPECT_EQ(directory->state(), State::kZombie);
}

TEST(ProcDir, OpensWhileAThreadExecutesAProgram) {
    for (int i = 0; i < 200; ++i) {
        Child child([](const Child::Line &line) {
            // Not the main thread: it takes the main thread's number over.
            std::thread([&line] {
                line.say();
                ::dup2(line.in.get(), 0);
                ::execl("/bin/cat", "cat", nullptr);
            }).join();
        });
        child.hear();
        for (std::string name; name != "cat";) {
            const auto directory = ProcDir::open(child.pid());
            ASSERT_TRUE(directory);
            ASSERT_EQ(directory->state(), State::kAlive);
            ASSERT_TRUE(directory->open_file("maps", O_RDONLY));
            name = directory->thread_name(child.pid());
        }
    }
}

TEST(ProcDir, NoSuchProcess) {
    const auto directory = ProcDir::open(std::numeric_limits<pid_t>::max());
    ASSERT_FALSE(directory);
    EXPECT_EQ(directory.error().status, DWUNW_ERR_NO_PROCESS);
}

} // namespace
} // namespace dwunw::process
