// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw_capture on other processes: stopped ones, ones that are unmapped during the walk, ended ones; and from many
// threads. capi_c_test tests what a request may hold.
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include "process_testing.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace {

using dwunw::testing::Child;

// A child that sits in read(), four functions deep.
[[gnu::noinline]] void deep(const Child::Line &line, int depth) {
    if (depth > 0)
        deep(line, depth - 1);
    else
        line.hear();
    asm volatile("");
}

class CaptureTest : public ::testing::Test {
  protected:
    CaptureTest()
        : child_([](const Child::Line &line) {
              line.say();
              deep(line, 4);
          }) {
        child_.hear();
        EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK);
        const dwunw_process_options options{.size = sizeof(options),
                                            .pid = child_.pid(),
                                            .maps = nullptr,
                                            .exe = nullptr,
                                            .sysroot = nullptr,
                                            .maps_error_line = nullptr};
        EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_OK);
        stop();
    }
    ~CaptureTest() override {
        dwunw_process_resume(stopped_);
        dwunw_process_close(process_);
        dwunw_shutdown(context_);
    }
    void stop() {
        // Until it is in its read(): stopped earlier, it is somewhere in deep().
        for (int i = 0; i < 10'000; ++i) {
            ASSERT_EQ(dwunw_process_stop(process_, &stopped_), DWUNW_OK);
            dwunw_thread thread{};
            thread.size = sizeof(thread);
            ASSERT_EQ(dwunw_stopped_thread(stopped_, 0, &thread), DWUNW_OK);
            regs_ = thread.regs;
            slice_.resize(16384);
            const size_t got =
                dwunw_process_read_memory(process_, regs_.regs[7] - DWUNW_RED_ZONE, slice_.data(), slice_.size());
            slice_.resize(got);
            if (capture().status == DWUNW_OK && pcs_.size() >= 9)
                return;
            dwunw_process_resume(stopped_);
            stopped_ = nullptr;
            std::this_thread::yield();
        }
        FAIL() << "the child never was where it should be";
    }
    struct Captured {
        dwunw_status status;
        size_t count;
    };
    Captured capture(uint32_t options = 0, bool with_slice = true) {
        std::array<dwunw_frame, 64> frames;
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.options = options;
        request.process = process_;
        request.regs = &regs_;
        request.stack_addr = regs_.regs[7] - DWUNW_RED_ZONE;
        request.stack = with_slice ? slice_.data() : nullptr;
        request.stack_size = with_slice ? slice_.size() : 0;
        request.frames = frames.data();
        request.max_frames = frames.size();
        Captured result{};
        result.status = dwunw_capture(context_, &request, &result.count);
        pcs_.clear();
        for (size_t i = 0; i < result.count; ++i)
            pcs_.push_back(frames[i].pc);
        return result;
    }

    Child child_;
    dwunw_context *context_ = nullptr;
    dwunw_process *process_ = nullptr;
    dwunw_stopped *stopped_ = nullptr;
    dwunw_regset regs_{};
    std::vector<uint8_t> slice_;
    std::vector<uint64_t> pcs_;
};

TEST_F(CaptureTest, TheProcessIsReadBeyondTheSlice) {
    ASSERT_EQ(capture().status, DWUNW_OK);
    const auto whole = pcs_;
    EXPECT_EQ(capture(0, false).status, DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(pcs_.size(), 1u);
    EXPECT_EQ(capture(DWUNW_UNWIND_READ_PROCESS, false).status, DWUNW_OK);
    EXPECT_EQ(pcs_, whole);
    EXPECT_EQ(capture(DWUNW_UNWIND_CFI_ONLY).status, DWUNW_OK);
    EXPECT_EQ(pcs_, whole);
}

TEST_F(CaptureTest, AfterItsTargetHasEnded) {
    ASSERT_EQ(capture().status, DWUNW_OK);
    const auto whole = pcs_;
    dwunw_process_resume(stopped_);
    stopped_ = nullptr;
    child_.kill_to_zombie();
    child_.reap();
    // Registers, slice, map and files are still here.
    EXPECT_EQ(capture().status, DWUNW_OK);
    EXPECT_EQ(pcs_, whole);
    // Its memory is not, nor is a map that could know another pc.
    EXPECT_EQ(capture(DWUNW_UNWIND_READ_PROCESS, false).status, DWUNW_ERR_MEMORY_UNREADABLE);
    EXPECT_EQ(pcs_.size(), 1u);
    regs_.regs[16] = 0x10010; // beyond the page that a null pointer with an offset leads into
    EXPECT_EQ(capture().status, DWUNW_ERR_NO_MAPPING);
}

TEST_F(CaptureTest, FromManyThreads) {
    ASSERT_EQ(capture().status, DWUNW_OK);
    const auto whole = pcs_;
    // A fresh context, so that the threads meet every module for the first time at once.
    dwunw_context *context = nullptr;
    dwunw_process *process = nullptr;
    ASSERT_EQ(dwunw_init(nullptr, &context), DWUNW_OK);
    const dwunw_process_options options{.size = sizeof(options),
                                        .pid = child_.pid(),
                                        .maps = nullptr,
                                        .exe = nullptr,
                                        .sysroot = nullptr,
                                        .maps_error_line = nullptr};
    ASSERT_EQ(dwunw_process_open(context, &options, &process), DWUNW_OK);
    std::atomic<size_t> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            std::array<dwunw_frame, 64> frames;
            dwunw_unwind_request request{};
            request.size = sizeof(request);
            request.process = process;
            request.regs = &regs_;
            request.stack_addr = regs_.regs[7] - DWUNW_RED_ZONE;
            request.stack = slice_.data();
            request.stack_size = slice_.size();
            request.frames = frames.data();
            request.max_frames = frames.size();
            for (int round = 0; round < 500; ++round) {
                size_t count = 0;
                const dwunw_status status = dwunw_capture(context, &request, &count);
                bool same = status == DWUNW_OK && count == whole.size();
                for (size_t j = 0; same && j < count; ++j)
                    same = frames[j].pc == whole[j];
                wrong += !same;
            }
        });
    }
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(wrong, 0u);
    dwunw_process_counters counters{};
    counters.size = sizeof(counters);
    ASSERT_EQ(dwunw_process_get_counters(process, &counters), DWUNW_OK);
    EXPECT_EQ(counters.captures, 2000u);
    EXPECT_EQ(counters.complete, 2000u);
    EXPECT_EQ(counters.frames, 2000u * whole.size());
    dwunw_process_close(process);
    dwunw_shutdown(context);
}

} // namespace
