// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Uses one context in many ways at the same time: threads that capture in several processes, maps that are read again,
// processes that are opened and closed, libraries that are loaded and unloaded at one address, tables that are compiled
// in the background and dropped for a budget. Every stack is known: its functions record where they return to. Also
// runs under ThreadSanitizer (`make tsan`).
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include "process_testing.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <latch>
#include <thread>

namespace {

using dwunw::testing::Child;

constexpr size_t kMaxStack = 64 << 10;
constexpr size_t kDepth = 5;
constexpr size_t kMaxFrames = 96;

// A stack as it stood in take(), and the truth about its innermost frames.
struct Sample {
    dwunw_regset regs;
    uint64_t stack_start;
    size_t stack_size;
    std::array<uint64_t, kDepth + 1> returns; // of take() and the functions around it; 0: not known
    std::array<uint8_t, kMaxStack> stack;
};

// The end of this thread's stack: behind it may be nothing.
uint64_t stack_end() {
    pthread_attr_t attributes;
    void *start = nullptr;
    size_t size = 0;
    EXPECT_EQ(::pthread_getattr_np(::pthread_self(), &attributes), 0);
    EXPECT_EQ(::pthread_attr_getstack(&attributes, &start, &size), 0);
    ::pthread_attr_destroy(&attributes);
    return reinterpret_cast<uint64_t>(start) + size;
}

// Word by word, so that no sanitizer minds what lies between the variables.
[[gnu::noinline, gnu::no_sanitize("address", "thread", "undefined")]] void copy_stack(Sample &sample, uint64_t end) {
    sample.stack_start = sample.regs.regs[7] - DWUNW_RED_ZONE;
    sample.stack_size = std::min<uint64_t>(kMaxStack, end - sample.stack_start) & ~size_t{7};
    const auto *from = reinterpret_cast<const volatile uint64_t *>(sample.stack_start);
    auto *to = reinterpret_cast<uint64_t *>(sample.stack.data());
    for (size_t i = 0; i < sample.stack_size / 8; ++i)
        to[i] = from[i];
}

[[gnu::noinline]] void take(Sample &sample) {
    const uint64_t end = stack_end();
    sample.returns[0] = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    sample.regs = {};
    sample.regs.size = sizeof(sample.regs);
    sample.regs.arch = DWUNW_ARCH_X86_64;
    // rbx rbp rsp r12–r15 rip: what a function finds on entry and CFI speaks of.
    sample.regs.valid = 1u << 3 | 1u << 6 | 1u << 7 | 0xfu << 12 | 1u << 16;
    asm volatile("mov %%rbx, 24(%0)\n\t"
                 "mov %%rbp, 48(%0)\n\t"
                 "mov %%rsp, 56(%0)\n\t"
                 "mov %%r12, 96(%0)\n\t"
                 "mov %%r13, 104(%0)\n\t"
                 "mov %%r14, 112(%0)\n\t"
                 "mov %%r15, 120(%0)\n\t"
                 "lea 0(%%rip), %%rax\n\t"
                 "mov %%rax, 128(%0)"
                 :
                 : "r"(sample.regs.regs)
                 : "rax", "memory");
    copy_stack(sample, end);
}

// take() under some functions; then `at_bottom`.
template <typename F> [[gnu::noinline]] void descend(Sample &sample, size_t depth, const F &at_bottom) {
    sample.returns[depth] = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    if (depth > 1) {
        descend(sample, depth - 1, at_bottom);
    } else {
        take(sample);
        at_bottom();
    }
    asm volatile("" ::: "memory"); // not a tail call
}

struct Walked {
    dwunw_status status = DWUNW_OK;
    size_t written = 0;
    std::array<dwunw_frame, kMaxFrames> frames{};
};

Walked capture(dwunw_context *context, dwunw_process *process, const Sample &sample) {
    Walked walked;
    dwunw_unwind_request request{};
    request.size = sizeof(request);
    request.process = process;
    request.regs = &sample.regs;
    request.stack_addr = sample.stack_start;
    request.stack = sample.stack.data();
    request.stack_size = sample.stack_size;
    request.frames = walked.frames.data();
    request.max_frames = walked.frames.size();
    walked.status = dwunw_capture(context, &request, &walked.written);
    return walked;
}

::testing::AssertionResult is_the_truth(const Walked &walked, const Sample &sample) {
    if (walked.status != DWUNW_OK || walked.written < sample.returns.size() + 2)
        return ::testing::AssertionFailure() << dwunw_status_string(walked.status) << " after " << walked.written;
    for (size_t i = 0; i <= sample.returns.size(); ++i) {
        const uint64_t expected = i == 0 ? sample.regs.regs[16] : sample.returns[i - 1];
        if (expected != 0 && walked.frames[i].pc != expected)
            return ::testing::AssertionFailure()
                   << "frame " << i << " is " << std::hex << walked.frames[i].pc << " and not " << expected;
    }
    return ::testing::AssertionSuccess();
}

::testing::AssertionResult is_same(const Walked &walked, const Walked &first) {
    if (walked.status != first.status || walked.written != first.written)
        return ::testing::AssertionFailure() << dwunw_status_string(walked.status) << " after " << walked.written
                                             << " frames, and not " << first.written;
    for (size_t i = 0; i < walked.written; ++i)
        if (walked.frames[i].pc != first.frames[i].pc || walked.frames[i].cfa != first.frames[i].cfa ||
            walked.frames[i].module != first.frames[i].module ||
            walked.frames[i].module_offset != first.frames[i].module_offset)
            return ::testing::AssertionFailure() << "frame " << i << " of " << walked.written;
    return ::testing::AssertionSuccess();
}

// A process with a stack that does not change: a child's, or a thread of this one's.
struct Target {
    dwunw_process *process = nullptr;
    const Sample *sample = nullptr;
    Walked first; // by one thread, before all else
};

thread_local Sample *in_plugin_sample = nullptr;

[[gnu::noinline]] int in_plugin(int *) {
    in_plugin_sample->returns[1] = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    take(*in_plugin_sample);
    asm volatile("" ::: "memory");
    return 1;
}

using PluginCall = int (*)(int (*)(int *), int);

[[gnu::noinline]] void through_plugin(PluginCall call, Sample &sample) {
    sample.returns = {};
    sample.returns[3] = reinterpret_cast<uint64_t>(__builtin_return_address(0)); // 2 is this function, the plugin's
    in_plugin_sample = &sample;
    EXPECT_GT(call(&in_plugin, 0), 0);
}

// Shared with children.
class SharedSample {
  public:
    SharedSample() : at_(::mmap(nullptr, sizeof(Sample), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
        if (at_ == MAP_FAILED)
            std::abort();
    }
    ~SharedSample() { ::munmap(at_, sizeof(Sample)); }
    SharedSample(const SharedSample &) = delete;
    SharedSample &operator=(const SharedSample &) = delete;
    Sample &operator*() const { return *static_cast<Sample *>(at_); }

  private:
    void *at_;
};

dwunw_process *open_process(dwunw_context *context, pid_t pid) {
    const dwunw_process_options options{.size = sizeof(options),
                                        .pid = pid,
                                        .maps = nullptr,
                                        .exe = nullptr,
                                        .sysroot = nullptr,
                                        .maps_error_line = nullptr};
    dwunw_process *process = nullptr;
    EXPECT_EQ(dwunw_process_open(context, &options, &process), DWUNW_OK);
    return process;
}

// Loads and unloads the plugins, which mostly come to lie at the same address, and takes a stack through each. What the
// map said before is not relied on: it is read again, whatever other threads do with it.
void load_and_unload(dwunw_context *context, dwunw_process *self, int rounds) {
    const auto sample = std::make_unique<Sample>();
    for (int i = 0; i < rounds; ++i) {
        void *plugin = ::dlopen(i % 2 == 0 ? PLUGIN_A : PLUGIN_B, RTLD_NOW | RTLD_LOCAL);
        ASSERT_NE(plugin, nullptr) << ::dlerror();
        through_plugin(reinterpret_cast<PluginCall>(::dlsym(plugin, "plugin_call")), *sample);
        ASSERT_EQ(dwunw_process_refresh(self), DWUNW_OK);
        const Walked walked = capture(context, self, *sample);
        EXPECT_TRUE(is_the_truth(walked, *sample)) << "round " << i;
        const char *path =
            walked.written > 2 && walked.frames[2].module != nullptr ? dwunw_module_path(walked.frames[2].module) : "";
        EXPECT_STREQ(path, i % 2 == 0 ? PLUGIN_A : PLUGIN_B);
        ::dlclose(plugin);
    }
}

void run_all_at_once(uint64_t budget) {
    // Forked before there are threads, and parked in read().
    std::array<SharedSample, 3> samples;
    std::array<std::unique_ptr<Child>, 2> children;
    for (size_t i = 0; i < children.size(); ++i) {
        Sample &sample = *samples[i];
        children[i] = std::make_unique<Child>([&sample](const Child::Line &line) {
            descend(sample, kDepth, [&] {
                line.say();
                line.hear();
            });
        });
        children[i]->hear();
    }
    std::latch parked(1);
    std::latch done(1);
    std::thread sleeper([&] {
        descend(*samples.back(), kDepth, [&] {
            parked.count_down();
            done.wait();
        });
    });
    parked.wait();

    const dwunw_config config{.size = sizeof(config), .reserved = 0, .table_budget = budget};
    dwunw_context *context = nullptr;
    ASSERT_EQ(dwunw_init(&config, &context), DWUNW_OK);
    std::array<Target, 3> targets;
    for (size_t i = 0; i < targets.size(); ++i) {
        targets[i].process = open_process(context, i < children.size() ? children[i]->pid() : ::getpid());
        targets[i].sample = &*samples[i];
        targets[i].first = capture(context, targets[i].process, *targets[i].sample);
        EXPECT_TRUE(is_the_truth(targets[i].first, *targets[i].sample)) << "target " << i;
    }

    std::atomic<bool> ending = false;
    std::atomic<uint64_t> captures = 0;
    const auto check = [&](size_t i) {
        const Target &target = targets[i % targets.size()];
        EXPECT_TRUE(is_same(capture(context, target.process, *target.sample), target.first)) << i % targets.size();
        captures.fetch_add(1, std::memory_order_relaxed);
    };
    std::vector<std::thread> threads;
    for (size_t first = 0; first < 4; ++first)
        threads.emplace_back([&, first] {
            size_t i = first;
            do
                check(i++);
            while (!ending && !::testing::Test::HasFailure());
        });
    threads.emplace_back([&] {
        dwunw_context_counters counters{};
        counters.size = sizeof(counters);
        for (size_t i = 0; !ending && !::testing::Test::HasFailure(); ++i) {
            const Target &target = targets[i % targets.size()];
            EXPECT_EQ(dwunw_process_refresh(target.process), DWUNW_OK);
            EXPECT_EQ(dwunw_context_get_counters(context, &counters), DWUNW_OK);
            dwunw_process *another = open_process(context, i % 2 == 0 ? children[0]->pid() : ::getpid());
            const Target &same = i % 2 == 0 ? targets[0] : targets[2];
            EXPECT_TRUE(is_same(capture(context, another, *same.sample), same.first)) << "opened anew";
            dwunw_process_close(another);
        }
    });
    load_and_unload(context, targets[2].process, 24);
    ending = true;
    for (std::thread &thread : threads)
        thread.join();

    dwunw_wait_for_tables(context);
    dwunw_context_counters counters{};
    counters.size = sizeof(counters);
    EXPECT_EQ(dwunw_context_get_counters(context, &counters), DWUNW_OK);
    EXPECT_GT(counters.tables_compiled, 0u);
    EXPECT_EQ(counters.tables_failed, 0u);
    if (budget == 1)
        EXPECT_GT(counters.tables_evicted, 0u);
    else
        EXPECT_EQ(counters.tables_evicted, 0u);
    EXPECT_GE(captures, 4u);
    for (size_t i = 0; i < targets.size(); ++i)
        check(i);

    done.count_down();
    sleeper.join();
    for (const Target &target : targets)
        dwunw_process_close(target.process);
    dwunw_shutdown(context);
}

TEST(Threads, OneContextUnderEverythingAtOnce) { run_all_at_once(0); }

TEST(Threads, WhileTablesComeAndGo) { run_all_at_once(1); }

} // namespace
