// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the tests of src/process share: a forked child that is told when to go on, and files of their own.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

namespace dwunw::testing {

// The value of a result that a test cannot go on without.
template <typename T> T take(Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "%s (%llu)\n", dwunw_status_string(result.error().status),
                     static_cast<unsigned long long>(result.error().value));
        std::abort();
    }
    return std::move(*result);
}

// What happens in another process happens some time; the limit is only so that a failure ends.
template <typename F>::testing::AssertionResult soon(F condition) {
    for (const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
         std::chrono::steady_clock::now() < deadline; ::sched_yield())
        if (condition())
            return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "not within a minute";
}

// A child process that runs `body` and then exits. They talk through two pipes: the child says() numbers and hears()
// when to go on. Killed and reaped at the end, also at the end of a test program that is killed.
class Child {
  public:
    class Line {
      public:
        void say(uint64_t value = 0) const {
            if (::write(out.get(), &value, sizeof(value)) != sizeof(value))
                ::_exit(99);
        }
        // False when the other side is gone.
        bool hear(uint64_t *value = nullptr) const {
            uint64_t got = 0;
            if (::read(in.get(), &got, sizeof(got)) != sizeof(got))
                return false;
            if (value != nullptr)
                *value = got;
            return true;
        }
        UniqueFd in;
        UniqueFd out;
    };

    // `pid`: the number it is to have, 0 for any.
    explicit Child(const std::function<void(const Line &)> &body, pid_t pid = 0) {
        int to_child[2];
        int from_child[2];
        if (::pipe2(to_child, O_CLOEXEC) != 0 || ::pipe2(from_child, O_CLOEXEC) != 0)
            std::abort();
        const pid_t parent = ::getpid();
        if (pid == 0) {
            pid_ = ::fork();
        } else {
            clone_args args{};
            args.exit_signal = SIGCHLD;
            args.set_tid = reinterpret_cast<uint64_t>(&pid);
            args.set_tid_size = 1;
            pid_ = static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof(args)));
            error_ = errno;
        }
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() != parent)
                ::_exit(98);
            Line line{UniqueFd(to_child[0]), UniqueFd(from_child[1])};
            ::close(to_child[1]);
            ::close(from_child[0]);
            body(line);
            ::_exit(0);
        }
        line_.in = UniqueFd(from_child[0]);
        line_.out = UniqueFd(to_child[1]);
        ::close(to_child[0]);
        ::close(from_child[1]);
    }
    ~Child() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            reap();
        }
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;

    pid_t pid() const { return pid_; }
    int error() const { return error_; } // where the number could not be had
    uint64_t hear() const {
        uint64_t value = 0;
        EXPECT_TRUE(line_.hear(&value)) << "the child has ended";
        return value;
    }
    void say(uint64_t value = 0) const { line_.say(value); }
    // Waits for a word or, as in an exec (the pipes are close-on-exec), for the end of the line.
    bool still_talking() const { return line_.hear(); }
    // Waits for its end and leaves it a zombie.
    void wait_for_zombie() const {
        siginfo_t info;
        EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT), 0);
    }
    void kill_to_zombie() const {
        ::kill(pid_, SIGKILL);
        wait_for_zombie();
    }
    int reap() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return status;
    }

  private:
    pid_t pid_ = -1;
    int error_ = 0;
    Line line_;
};

// A folder that goes when the test does.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string name = std::filesystem::temp_directory_path() / "dwunw-process-XXXXXX";
        if (::mkdtemp(name.data()) == nullptr)
            std::abort();
        path_ = name;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder &) = delete;
    TemporaryFolder &operator=(const TemporaryFolder &) = delete;

    std::string operator/(const std::string &name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

inline void write_file(const std::string &path, const std::string &content) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

inline std::string read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Fields of a bigger test may be missing for want of rights; then it says so.
inline std::string rights_missing() {
    return ::geteuid() == 0 ? "" : "skipped: needs root (map_files, pid numbers by choice, mount namespaces)";
}

inline size_t page_size() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

} // namespace dwunw::testing
