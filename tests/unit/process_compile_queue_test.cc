// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/compile_queue.h"

#include "process_testing.h"
#include "support/cfi_bytes.h"
#include "support/watched_source.h"

#include <gtest/gtest.h>

#include <elf.h>

#include <atomic>
#include <csignal>

namespace dwunw::process {
namespace {

std::shared_ptr<const unwind::ModuleCfi> module() {
    testing::FrameSection section;
    section.fde(section.cie(), 0x1000, 0x10);
    auto built =
        unwind::ModuleCfi::build({.eh_frame = SectionBytes{section.data(), LinkAddr(0x100000)}, .machine = EM_X86_64});
    EXPECT_TRUE(built);
    return std::move(*built);
}

TEST(CompileQueue, CompilesEveryAddedModule) {
    std::atomic<int> compiled = 0;
    CompileQueue queue([&] { ++compiled; });
    std::vector<std::shared_ptr<const unwind::ModuleCfi>> modules;
    for (int i = 0; i < 20; ++i) {
        modules.push_back(module());
        EXPECT_EQ(modules.back()->table(), nullptr);
        ASSERT_TRUE(queue.add(modules.back()));
    }
    queue.wait_until_idle();
    for (const auto &each : modules) {
        ASSERT_NE(each->table(), nullptr);
        EXPECT_EQ(each->table()->fde_count(), 1u);
        EXPECT_EQ(each.use_count(), 1); // it holds nothing back
    }
    EXPECT_EQ(compiled, 20);
    EXPECT_EQ(queue.failures(), 0u);
}

TEST(CompileQueue, CountsUnreadableModules) {
    const auto source = std::make_shared<testing::WatchedSource>(std::vector<uint8_t>(100));
    source->changed = true;
    unwind::CfiInput input;
    input.eh_frame.emplace(source, FileOffset(0), 100, LinkAddr(0x1000));
    input.machine = EM_X86_64;
    std::shared_ptr<const unwind::ModuleCfi> changed = testing::take(unwind::ModuleCfi::build(std::move(input)));
    CompileQueue queue([] {});
    ASSERT_TRUE(queue.add(changed));
    queue.wait_until_idle();
    EXPECT_EQ(changed->table(), nullptr);
    EXPECT_EQ(queue.failures(), 1u);
}

TEST(CompileQueue, AnIdleQueueDoesNotWait) {
    CompileQueue queue([] {});
    queue.wait_until_idle();
}

TEST(CompileQueue, EndsWithJobsWaiting) {
    const auto last = module();
    {
        CompileQueue queue([] {});
        for (int i = 0; i < 100; ++i)
            ASSERT_TRUE(queue.add(module()));
        ASSERT_TRUE(queue.add(last));
    }
    EXPECT_EQ(last.use_count(), 1);
}

// A signal for the process is the program's, also when every thread of the program has it blocked.
TEST(CompileQueue, ItsThreadTakesNoSignals) {
    sigset_t none;
    sigemptyset(&none);
    ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &none, nullptr), 0);
    sigset_t in_thread;
    CompileQueue queue([&] { ::pthread_sigmask(SIG_SETMASK, nullptr, &in_thread); });
    ASSERT_TRUE(queue.add(module()));
    queue.wait_until_idle();
    EXPECT_TRUE(sigismember(&in_thread, SIGTERM));
    EXPECT_TRUE(sigismember(&in_thread, SIGUSR1));
    sigset_t here;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &here);
    EXPECT_FALSE(sigismember(&here, SIGTERM));
}

} // namespace
} // namespace dwunw::process
