// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/stopped.h"

#include "process_testing.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>

#include <algorithm>
#include <atomic>
#include <thread>

namespace dwunw::process {
namespace {

using testing::Child;
using testing::soon;

// Indices into struct pt_regs.
constexpr size_t kRbx = 5;
constexpr size_t kR12 = 3;
constexpr size_t kRip = 16;
constexpr size_t kRsp = 19;

ProcDir directory_of(pid_t pid) { return testing::take(ProcDir::open(pid)); }

// A word of memory that a child and its tests share.
template <typename T> class Shared {
  public:
    Shared()
        : value_(
              static_cast<T *>(::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
        new (value_) T();
    }
    ~Shared() { ::munmap(value_, sizeof(T)); }
    T &operator*() const { return *value_; }
    T *operator->() const { return value_; }

  private:
    T *value_;
};

std::string status_line(pid_t pid, const std::string &name) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(file, line);)
        if (line.starts_with(name + ":\t"))
            return line.substr(name.size() + 2);
    return "";
}

// NUL when it is gone.
char state_of(pid_t pid) { return status_line(pid, "State").c_str()[0]; }

struct Counters {
    std::array<std::atomic<uint64_t>, 4> counts;
    std::array<std::atomic<pid_t>, 4> tids;
    std::atomic<uint64_t> signals;
};

// Counts for ever, with a number of its own in two registers.
[[noreturn]] void count_for_ever(std::atomic<uint64_t> &count, uint64_t mark) {
    for (;;)
        asm volatile("movq %1, %%rbx\n\t"
                     "movq %1, %%r12\n"
                     "1:\n\t"
                     "incq %0\n\t"
                     "testq $0xfffff, %0\n\t"
                     "jnz 1b\n\t"
                     : "+m"(count)
                     : "r"(mark)
                     : "rbx", "r12", "memory", "cc");
}

struct Counting {
    Counting()
        : child([this](const Child::Line &line) {
              std::array<std::thread, 3> threads;
              for (size_t i = 0; i < threads.size(); ++i)
                  threads[i] = std::thread([this, i] {
                      ::prctl(PR_SET_NAME, ("worker-" + std::to_string(i)).c_str());
                      shared->tids[i] = ::gettid();
                      count_for_ever(shared->counts[i], 0x1000 + i);
                  });
              ::prctl(PR_SET_NAME, "leader");
              struct sigaction action {};
              static Counters *counters;
              counters = &*shared;
              action.sa_handler = [](int) { ++counters->signals; };
              action.sa_flags = SA_RESTART;
              ::sigaction(SIGUSR1, &action, nullptr);
              ::sigaction(SIGRTMIN, &action, nullptr);
              shared->tids[3] = ::getpid();
              line.say();
              line.hear();
          }) {
        child.hear();
        EXPECT_TRUE(soon([this] { return counts_go_on(); }));
    }
    bool counts_go_on() {
        const std::array before = {shared->counts[0].load(), shared->counts[1].load(), shared->counts[2].load()};
        return static_cast<bool>(soon([&] {
            for (size_t i = 0; i < before.size(); ++i)
                if (shared->counts[i] == before[i])
                    return false;
            return true;
        }));
    }
    Shared<Counters> shared;
    Child child;
};

TEST(StoppedThreads, EveryThreadWithItsNameAndRegisters) {
    Counting counting;
    const ProcDir directory = directory_of(counting.child.pid());
    auto stopped = StoppedThreads::stop(directory);
    ASSERT_TRUE(stopped) << dwunw_status_string(stopped.error().status);
    ASSERT_EQ((*stopped)->threads().size(), 4u);
    pid_t last = 0;
    size_t workers = 0;
    for (const StoppedThread &thread : (*stopped)->threads()) {
        EXPECT_GT(thread.tid, last);
        last = thread.tid;
        EXPECT_EQ(thread.status, DWUNW_OK);
        EXPECT_NE(thread.registers[kRip], 0u);
        EXPECT_NE(thread.registers[kRsp], 0u);
        if (thread.tid == counting.child.pid()) {
            EXPECT_EQ(thread.name, "leader");
            continue;
        }
        for (size_t i = 0; i < 3; ++i)
            if (counting.shared->tids[i] == thread.tid) {
                EXPECT_EQ(thread.name, "worker-" + std::to_string(i));
                EXPECT_EQ(thread.registers[kRbx], 0x1000 + i);
                EXPECT_EQ(thread.registers[kR12], 0x1000 + i);
                ++workers;
            }
    }
    EXPECT_EQ(workers, 3u);
    // They stand still, and go on afterwards.
    const auto count = counting.shared->counts[0].load();
    EXPECT_EQ(state_of(counting.child.pid()), 't');
    for (int i = 0; i < 1000; ++i)
        ::sched_yield();
    EXPECT_EQ(counting.shared->counts[0], count);
    stopped->reset();
    EXPECT_TRUE(counting.counts_go_on());
    EXPECT_EQ(status_line(counting.child.pid(), "TracerPid"), "0");
}

TEST(StoppedThreads, StoppingAgainAndAgain) {
    Counting counting;
    const ProcDir directory = directory_of(counting.child.pid());
    for (int i = 0; i < 200; ++i) {
        auto stopped = StoppedThreads::stop(directory);
        ASSERT_TRUE(stopped);
        for (const StoppedThread &thread : (*stopped)->threads())
            ASSERT_EQ(thread.status, DWUNW_OK);
    }
    EXPECT_TRUE(counting.counts_go_on());
}

TEST(StoppedThreads, AStoppedProcessStaysStopped) {
    Counting counting;
    const pid_t pid = counting.child.pid();
    ASSERT_EQ(::kill(pid, SIGSTOP), 0);
    ASSERT_TRUE(soon([&] { return state_of(pid) == 'T' && state_of(counting.shared->tids[0]) == 'T'; }));
    const ProcDir directory = directory_of(pid);
    for (int i = 0; i < 3; ++i) {
        auto stopped = StoppedThreads::stop(directory);
        ASSERT_TRUE(stopped);
        EXPECT_EQ((*stopped)->threads().size(), 4u);
        for (const StoppedThread &thread : (*stopped)->threads())
            EXPECT_EQ(thread.status, DWUNW_OK);
        stopped->reset();
        EXPECT_TRUE(soon([&] { return state_of(pid) == 'T' && state_of(counting.shared->tids[0]) == 'T'; }));
    }
    const auto count = counting.shared->counts[0].load();
    for (int i = 0; i < 1000; ++i)
        ::sched_yield();
    EXPECT_EQ(counting.shared->counts[0], count);
    ASSERT_EQ(::kill(pid, SIGCONT), 0);
    EXPECT_TRUE(counting.counts_go_on());
}

TEST(StoppedThreads, SignalsAreDeliveredInTheEnd) {
    Counting counting;
    const pid_t pid = counting.child.pid();
    const ProcDir directory = directory_of(pid);
    // Each worker has a queue of them to work through, so that some are intercepted on their way. None may be lost.
    uint64_t sent = 0;
    for (int i = 0; i < 100; ++i) {
        for (size_t k = 0; k < 3000; ++k, ++sent)
            ASSERT_EQ(::syscall(SYS_tgkill, pid, counting.shared->tids[k % 3].load(), SIGRTMIN), 0);
        auto stopped = StoppedThreads::stop(directory);
        ASSERT_TRUE(stopped);
        stopped->reset();
        ASSERT_TRUE(soon([&] { return counting.shared->signals == sent; }))
            << counting.shared->signals << " of " << sent;
    }
    {
        auto stopped = StoppedThreads::stop(directory);
        ASSERT_TRUE(stopped);
        ASSERT_EQ(::syscall(SYS_tgkill, pid, counting.shared->tids[0].load(), SIGUSR1), 0);
        ++sent;
        for (int i = 0; i < 100; ++i)
            ::sched_yield();
        EXPECT_EQ(counting.shared->signals, sent - 1);
    }
    EXPECT_TRUE(soon([&] { return counting.shared->signals == sent; }));
}

TEST(StoppedThreads, AStopSignalOnItsWayStillStops) {
    for (int i = 0; i < 20; ++i) {
        Counting counting;
        const pid_t pid = counting.child.pid();
        const ProcDir directory = directory_of(pid);
        ASSERT_EQ(::kill(pid, SIGSTOP), 0);
        { ASSERT_TRUE(StoppedThreads::stop(directory)); }
        EXPECT_TRUE(soon([&] { return state_of(pid) == 'T' && state_of(counting.shared->tids[1]) == 'T'; }));
        ASSERT_EQ(::kill(pid, SIGCONT), 0);
        EXPECT_TRUE(counting.counts_go_on());
    }
}

TEST(StoppedThreads, KilledWhileStopped) {
    auto counting = std::make_unique<Counting>();
    const ProcDir directory = directory_of(counting->child.pid());
    auto stopped = StoppedThreads::stop(directory);
    ASSERT_TRUE(stopped);
    const pid_t pid = counting->child.pid();
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    ASSERT_TRUE(soon([&] { return state_of(pid) == 'Z'; }));
    stopped->reset(); // nothing to resume, and no error
    // Its parent hears of it: no thread is kept by its tracer.
    counting->child.wait_for_zombie();
    const auto again = StoppedThreads::stop(directory);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().status, DWUNW_ERR_NO_PROCESS);
}

TEST(StoppedThreads, KilledWhileStoppedItsParentHearsOfIt) {
    Shared<std::atomic<int>> status;
    *status = -1;
    Child parent([&status](const Child::Line &line) {
        Counting counting;
        line.say(static_cast<uint64_t>(counting.child.pid()));
        *status = counting.child.reap();
        line.hear();
    });
    const auto pid = static_cast<pid_t>(parent.hear());
    const ProcDir directory = directory_of(pid);
    auto stopped = StoppedThreads::stop(directory);
    ASSERT_TRUE(stopped);
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    ASSERT_TRUE(soon([&] { return state_of(pid) == 'Z'; }));
    stopped->reset();
    EXPECT_TRUE(soon([&] { return *status != -1; }));
    EXPECT_EQ(*status, SIGKILL);
}

// The caller is not made to wait for ever, and the thread is not lost.
TEST(StoppedThreads, AThreadInAnUninterruptibleWait) {
    Child child([](const Child::Line &line) {
        line.say();
        // Until its child has ended, a vfork's parent is stopped by nothing but SIGKILL.
        if (::vfork() == 0) {
            line.hear();
            ::_exit(0);
        }
        line.say();
        line.hear();
    });
    child.hear();
    ASSERT_TRUE(soon([&] { return state_of(child.pid()) == 'D'; }));
    for (const auto patience : {std::chrono::nanoseconds(0), StoppedThreads::kPatience}) {
        auto stopped = StoppedThreads::stop(directory_of(child.pid()), patience);
        ASSERT_TRUE(stopped) << dwunw_status_string(stopped.error().status);
        ASSERT_EQ((*stopped)->threads().size(), 1u);
        EXPECT_EQ((*stopped)->threads()[0].status, DWUNW_ERR_REGISTER_UNKNOWN);
        if (patience == StoppedThreads::kPatience)
            child.say();
    }
    child.hear();
    EXPECT_EQ(status_line(child.pid(), "TracerPid"), "0");
}

TEST(StoppedThreads, AThreadOrAProcessThatEndsMeanwhile) {
    size_t caught = 0;
    for (int i = 0; i < 100; ++i) {
        Child child([i](const Child::Line &line) {
            std::vector<std::thread> threads;
            for (int t = 0; t < 4; ++t)
                threads.emplace_back([] {});
            line.say();
            if (i % 2 == 0)
                for (std::thread &thread : threads)
                    thread.join();
            if (i % 4 == 0)
                line.hear();
            ::_exit(0);
        });
        child.hear();
        const ProcDir directory = directory_of(child.pid());
        auto stopped = StoppedThreads::stop(directory);
        if (!stopped) {
            EXPECT_EQ(stopped.error().status, DWUNW_ERR_NO_PROCESS);
            EXPECT_NE(i % 4, 0) << "it has not ended";
            continue;
        }
        ++caught;
        for (const StoppedThread &thread : (*stopped)->threads())
            EXPECT_TRUE(thread.status == DWUNW_OK || thread.status == DWUNW_ERR_NO_PROCESS);
    }
    EXPECT_GE(caught, 25u);
}

TEST(StoppedThreads, AProcessThatMakesThreadsAllTheTime) {
    Child child([](const Child::Line &line) {
        line.say();
        for (;;) {
            std::array<std::thread, 4> threads;
            for (std::thread &thread : threads)
                thread = std::thread([] { std::thread([] {}).join(); });
            for (std::thread &thread : threads)
                thread.join();
        }
    });
    child.hear();
    const ProcDir directory = directory_of(child.pid());
    for (int i = 0; i < 100; ++i) {
        auto stopped = StoppedThreads::stop(directory);
        ASSERT_TRUE(stopped) << dwunw_status_string(stopped.error().status);
        // All of them: every thread that is there is traced by us.
        for (const pid_t tid : directory.threads()) {
            if (directory.state(tid) != ProcDir::State::kAlive)
                continue;
            EXPECT_EQ(status_line(tid, "TracerPid"), std::to_string(::getpid()));
        }
    }
}

TEST(StoppedThreads, AnExecInTheMiddle) {
    const auto body = [](const Child::Line &line) {
        // Not the main thread: its number changes to the process's.
        std::thread([&] {
            line.say(static_cast<uint64_t>(::getpid()));
            ::dup2(line.in.get(), 0);
            ::execl("/bin/cat", "cat", nullptr);
        }).join();
    };
    for (int i = 0; i < 200; ++i) {
        // The kernel tells a tracer who is the parent, too, of other things.
        const bool own_child = i % 2 == 0;
        Child child([&](const Child::Line &line) {
            if (own_child)
                return body(line);
            Child grandchild([&](const Child::Line &) { body(line); });
            grandchild.reap();
        });
        const auto pid = static_cast<pid_t>(child.hear());
        const ProcDir directory = directory_of(pid);
        auto stopped = StoppedThreads::stop(directory);
        ASSERT_TRUE(stopped) << dwunw_status_string(stopped.error().status);
        EXPECT_TRUE(std::ranges::any_of((*stopped)->threads(), [](const auto &t) { return t.status == DWUNW_OK; }));
        stopped->reset();
        // It went on to its exec.
        ASSERT_TRUE(soon([&] { return status_line(pid, "Name") == "cat" && state_of(pid) == 'S'; })) << state_of(pid);
        EXPECT_EQ(status_line(pid, "TracerPid"), "0");
    }
}

TEST(StoppedThreads, AProcessWhoseMainThreadHasEnded) {
    Shared<Counters> shared;
    Child child([&](const Child::Line &line) {
        std::thread([&] {
            shared->tids[0] = ::gettid();
            line.hear();
            line.say();
            count_for_ever(shared->counts[0], 0x1000);
        }).detach();
        ::syscall(SYS_exit, 0); // unlike pthread_exit it does not unwind, which would close the line
    });
    const ProcDir directory = directory_of(child.pid());
    ASSERT_TRUE(soon([&] { return directory.state(child.pid()) == ProcDir::State::kZombie; }));
    child.say();
    child.hear();
    auto stopped = StoppedThreads::stop(directory);
    ASSERT_TRUE(stopped) << dwunw_status_string(stopped.error().status);
    ASSERT_EQ((*stopped)->threads().size(), 1u);
    EXPECT_EQ((*stopped)->threads()[0].tid, shared->tids[0]);
    EXPECT_EQ((*stopped)->threads()[0].status, DWUNW_OK);
}

TEST(StoppedThreads, AnotherTracerIsAPermissionError) {
    Counting counting;
    const pid_t pid = counting.child.pid();
    Child tracer([pid](const Child::Line &line) {
        line.say(static_cast<uint64_t>(::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr)));
        line.hear();
    });
    ASSERT_EQ(tracer.hear(), 0u);
    const ProcDir directory = directory_of(pid);
    const auto stopped = StoppedThreads::stop(directory);
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().status, DWUNW_ERR_PERMISSION);
    EXPECT_TRUE(counting.counts_go_on()); // those that were seized before run on
}

TEST(StoppedThreads, OneselfIsAPermissionError) {
    const auto stopped = StoppedThreads::stop(directory_of(::getpid()));
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().status, DWUNW_ERR_PERMISSION);
}

TEST(StoppedThreads, AZombieCannotBeStopped) {
    Child child([](const Child::Line &) {});
    child.wait_for_zombie();
    const auto stopped = StoppedThreads::stop(directory_of(child.pid()));
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().status, DWUNW_ERR_NO_PROCESS);
}

} // namespace
} // namespace dwunw::process
