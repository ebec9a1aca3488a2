// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Processes that are watched, and commands that are started.
#include "recorder/watched.h"

#include "process_testing.h"

#include <algorithm>
#include <cerrno>
#include <poll.h>
#include <utility>

namespace dwunw_tool {
namespace {

using dwunw::testing::soon;
using dwunw::testing::TemporaryFolder;
using Words = std::vector<std::string>;

Child started(const Words &command) {
    auto child = Child::start(command);
    if (!child)
        std::abort();
    return std::move(*child);
}

std::string contents(const std::string &path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

bool exists(int32_t pid) { return ::kill(pid, 0) == 0; }

TEST(Watched, AProcessThatRunsHasNotEnded) {
    const Watched self(::getpid());
    EXPECT_EQ(self.pid(), ::getpid());
    EXPECT_GE(self.fd(), 0);
    EXPECT_FALSE(self.has_ended());
}

TEST(Watched, AProcessThatDoesNotExistHasEnded) {
    const Watched nobody(0x7fffffff);
    EXPECT_EQ(nobody.fd(), -1);
    EXPECT_TRUE(nobody.has_ended());
}

TEST(Watched, ItsDescriptorTellsOfTheEndAlsoWhenMoved) {
    Child child = started({"/bin/cat", "/dev/null"});
    Watched first(child.pid());
    Watched watched(std::move(first));
    EXPECT_FALSE(watched.has_ended());
    EXPECT_EQ(child.release(), 0);
    pollfd end{watched.fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&end, 1, 60'000), 1);
    EXPECT_TRUE(watched.has_ended());
    EXPECT_TRUE(soon([&] { return child.has_ended(); }));
    Watched other(::getpid());
    other = std::move(watched);
    EXPECT_TRUE(other.has_ended());
}

TEST(ProcessesNamed, ThoseOfTheName) {
    const TemporaryFolder folder;
    const std::string name = "watched" + std::to_string(::getpid() % 100'000), program = folder / name;
    std::filesystem::copy_file("/bin/sleep", program);
    EXPECT_EQ(processes_named(name), std::vector<int32_t>{});
    Child one = started({program, "1000"}), other = started({program, "1000"});
    EXPECT_EQ(one.release(), 0);
    EXPECT_EQ(other.release(), 0);
    std::vector<int32_t> pids = processes_named(name), expected{one.pid(), other.pid()};
    std::sort(pids.begin(), pids.end());
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(pids, expected);
    one.end();
    other.end();
    EXPECT_EQ(processes_named(name), std::vector<int32_t>{});
}

TEST(ProcessesNamed, ThisOneIsNotAmongThem) {
    std::string name;
    ASSERT_TRUE(std::getline(std::ifstream("/proc/self/comm"), name));
    const std::vector<int32_t> pids = processes_named(name);
    EXPECT_EQ(std::count(pids.begin(), pids.end(), ::getpid()), 0);
}

TEST(FindCgroup, ThatIsNotThere) {
    EXPECT_EQ(find_cgroup("no/such/group"), std::nullopt);
    EXPECT_EQ(errno, ENOENT);
}

TEST(FindCgroup, AFolderThatIsNone) {
    const TemporaryFolder folder;
    if (!std::filesystem::exists("/sys/fs/cgroup/cgroup.controllers"))
        GTEST_SKIP() << "no unified cgroup hierarchy";
    EXPECT_EQ(find_cgroup("../../../proc"), std::nullopt);
    EXPECT_EQ(errno, ENOTDIR);
    const auto root = find_cgroup("/sys/fs/cgroup");
    ASSERT_NE(root, std::nullopt);
    EXPECT_EQ(root->id, find_cgroup("/sys/fs/cgroup/")->id);
    EXPECT_NE(root->id, 0u);
}

TEST(StartedChild, DoesNothingBeforeItIsReleased) {
    const TemporaryFolder folder;
    const std::string file = folder / "file";
    int32_t pid = 0;
    {
        const Child child = started({"/bin/sh", "-c", "echo begun > " + file});
        pid = child.pid();
        EXPECT_TRUE(exists(pid));
    }
    EXPECT_FALSE(exists(pid)) << "it ends with its object, and is reaped";
    EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(StartedChild, IsSearchedInThePathAndHasItsArguments) {
    const TemporaryFolder folder;
    const std::string file = folder / "file";
    Child child = started({"sh", "-c", "echo \"$0,$1\" > " + file + "; exit 5", "a b", "c"});
    EXPECT_EQ(child.release(), 0);
    EXPECT_FALSE(child.wait_for_stop());
    EXPECT_TRUE(child.has_ended());
    ASSERT_TRUE(WIFEXITED(child.status()));
    EXPECT_EQ(WEXITSTATUS(child.status()), 5);
    EXPECT_EQ(contents(file), "a b,c\n");
}

TEST(StartedChild, ThatCannotBeExecutedTellsWhy) {
    for (const auto &[program, error] : {std::pair{"/nonexistent", ENOENT}, std::pair{"/", EACCES}}) {
        Child child = started({program});
        const int32_t pid = child.pid();
        EXPECT_EQ(child.release(), error) << program;
        EXPECT_TRUE(child.has_ended());
        EXPECT_FALSE(child.wait_for_stop());
        EXPECT_FALSE(exists(pid)) << "it is reaped";
    }
}

TEST(StartedChild, StopsAndRunsOn) {
    Child child = started({"/bin/sh", "-c", "kill -STOP $$; exit 3"});
    EXPECT_EQ(child.release(), 0);
    EXPECT_TRUE(child.wait_for_stop());
    EXPECT_FALSE(child.has_ended());
    child.run_on();
    EXPECT_FALSE(child.wait_for_stop());
    EXPECT_EQ(WEXITSTATUS(child.status()), 3);
}

TEST(StartedChild, EndsAlsoWhenItIsStopped) {
    Child child = started({"/bin/sh", "-c", "kill -STOP $$; exit 3"});
    EXPECT_EQ(child.release(), 0);
    EXPECT_TRUE(child.wait_for_stop());
    child.end();
    EXPECT_TRUE(child.has_ended());
    ASSERT_TRUE(WIFSIGNALED(child.status()));
    EXPECT_EQ(WTERMSIG(child.status()), SIGTERM);
    child.end(); // once more does nothing
}

TEST(StartedChild, HasNoneOfTheToolsSignalSettings) {
    const TemporaryFolder folder;
    const std::string file = folder / "file";
    sigset_t set, before;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGINT);
    ::sigaddset(&set, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &set, &before);
    const auto pipe = ::signal(SIGPIPE, SIG_IGN);
    Child child = started({"/bin/sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status > " + file});
    EXPECT_EQ(child.release(), 0);
    EXPECT_FALSE(child.wait_for_stop());
    ::signal(SIGPIPE, pipe);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    const std::string text = contents(file);
    EXPECT_NE(text.find("SigBlk:\t0000000000000000\n"), std::string::npos) << text;
    const uint64_t ignored = std::stoull(text.substr(text.find("SigIgn:") + 7), nullptr, 16);
    EXPECT_EQ(ignored >> (SIGPIPE - 1) & 1, 0u) << text;
}

} // namespace
} // namespace dwunw_tool
