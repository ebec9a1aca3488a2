// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Core files through the C ABI: written from a live process, read back, and walked with the same result.
#include <dwunw/core.h>

#include "process_testing.h"

#include <gtest/gtest.h>

#include <dlfcn.h>

namespace {

using dwunw::testing::Child;
using dwunw::testing::TemporaryFolder;

class CoreTest : public ::testing::Test {
  protected:
    CoreTest() { EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK); }
    ~CoreTest() override {
        dwunw_core_close(core_);
        dwunw_process_resume(stopped_);
        dwunw_process_close(process_);
        dwunw_shutdown(context_);
    }
    void stop(pid_t pid) {
        const dwunw_process_options options{.size = sizeof(options),
                                            .pid = pid,
                                            .maps = nullptr,
                                            .exe = nullptr,
                                            .sysroot = nullptr,
                                            .maps_error_line = nullptr};
        ASSERT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_OK);
        ASSERT_EQ(dwunw_process_stop(process_, &stopped_), DWUNW_OK);
    }
    void write() {
        const dwunw::UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        const dwunw_core_write_options options{.size = sizeof(options), .reserved = 0, .stack_bytes = 0};
        ASSERT_EQ(dwunw_core_write(process_, stopped_, &options, fd.get()), DWUNW_OK);
    }
    dwunw_status open(const char *exe = nullptr, const char *sysroot = nullptr) {
        dwunw_core_close(core_);
        core_ = nullptr;
        const dwunw_core_options options{
            .size = sizeof(options), .reserved = 0, .path = path_.c_str(), .exe = exe, .sysroot = sysroot};
        return dwunw_core_open(context_, &options, &core_);
    }
    std::vector<dwunw_frame> walk(dwunw_process *process, const dwunw_regset &registers, bool through_callback,
                                  dwunw_status expected = DWUNW_OK) {
        std::vector<dwunw_frame> frames(64);
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.process = process;
        request.regs = &registers;
        request.frames = frames.data();
        request.max_frames = frames.size();
        if (through_callback) {
            request.read_memory = dwunw_core_read_memory;
            request.memory_arg = core_;
        } else {
            request.options = DWUNW_UNWIND_READ_PROCESS;
        }
        size_t written = 0;
        EXPECT_EQ(dwunw_capture(context_, &request, &written), expected);
        frames.resize(written);
        return frames;
    }

    TemporaryFolder folder_;
    std::string path_ = folder_ / "core";
    dwunw_context *context_ = nullptr;
    dwunw_process *process_ = nullptr;
    dwunw_stopped *stopped_ = nullptr;
    dwunw_core *core_ = nullptr;
};

TEST_F(CoreTest, IsWalkedAsTheProcess) {
    const Child child([](const Child::Line &line) {
        ::prctl(PR_SET_NAME, "the child");
        line.say();
        line.hear();
    });
    child.hear();
    stop(child.pid());
    dwunw_thread live{};
    live.size = sizeof(live);
    ASSERT_EQ(dwunw_stopped_thread(stopped_, 0, &live), DWUNW_OK);
    const auto truth = walk(process_, live.regs, false);
    ASSERT_GT(truth.size(), 5u);
    write();

    ASSERT_EQ(open(), DWUNW_OK);
    EXPECT_EQ(dwunw_core_pid(core_), child.pid());
    EXPECT_STREQ(dwunw_core_name(core_), "the child");
    ASSERT_EQ(dwunw_core_thread_count(core_), 1u);
    dwunw_thread thread{};
    thread.size = sizeof(thread);
    ASSERT_EQ(dwunw_core_thread(core_, 0, &thread), DWUNW_OK);
    EXPECT_EQ(thread.tid, child.pid());
    EXPECT_STREQ(thread.name, "the child");
    EXPECT_EQ(std::memcmp(&thread.regs, &live.regs, sizeof(live.regs)), 0);
    EXPECT_EQ(dwunw_core_thread(core_, 1, &thread), DWUNW_ERR_NOT_FOUND);
    for (const bool through_callback : {true, false}) {
        const auto frames = walk(dwunw_core_process(core_), thread.regs, through_callback);
        ASSERT_EQ(frames.size(), truth.size());
        for (size_t i = 0; i < frames.size(); ++i) {
            EXPECT_EQ(frames[i].pc, truth[i].pc) << i;
            EXPECT_EQ(frames[i].cfa, truth[i].cfa) << i;
            EXPECT_EQ(frames[i].module_offset, truth[i].module_offset) << i;
            EXPECT_STREQ(dwunw_module_path(frames[i].module), dwunw_module_path(truth[i].module)) << i;
        }
    }
    dwunw_process_counters counters{};
    counters.size = sizeof(counters);
    ASSERT_EQ(dwunw_process_get_counters(dwunw_core_process(core_), &counters), DWUNW_OK);
    EXPECT_EQ(counters.complete, 2u);

    // Text, which the core does not hold, is the file's; the stack is the core's; the heap is nowhere.
    std::array<uint8_t, 64> in_core;
    std::array<uint8_t, 64> in_memory;
    for (const uint64_t address : {truth[1].pc, truth[1].cfa}) {
        ASSERT_EQ(dwunw_core_read_memory(core_, address, in_core.data(), in_core.size()), in_core.size());
        ASSERT_EQ(dwunw_process_read_memory(process_, address, in_memory.data(), in_memory.size()), in_memory.size());
        EXPECT_EQ(in_core, in_memory);
    }
    EXPECT_EQ(dwunw_core_read_memory(core_, 16, in_core.data(), in_core.size()), 0u);

    // A core does not change.
    EXPECT_EQ(dwunw_process_refresh(dwunw_core_process(core_)), DWUNW_OK);
    dwunw_stopped *none = nullptr;
    EXPECT_EQ(dwunw_process_stop(dwunw_core_process(core_), &none), DWUNW_ERR_INVALID_ARGUMENT);
}

TEST_F(CoreTest, WrongFilesAreNotWalked) {
    const Child child([](const Child::Line &line) {
        line.say();
        line.hear();
    });
    child.hear();
    stop(child.pid());
    write();
    dwunw_thread thread{};
    thread.size = sizeof(thread);
    ASSERT_EQ(open("/bin/true"), DWUNW_OK);
    ASSERT_EQ(dwunw_core_thread(core_, 0, &thread), DWUNW_OK);
    const auto frames = walk(dwunw_core_process(core_), thread.regs, true, DWUNW_ERR_MODULE_CHANGED);
    ASSERT_FALSE(frames.empty());
    ASSERT_EQ(open(nullptr, (folder_ / "nothing").c_str()), DWUNW_OK);
    EXPECT_EQ(walk(dwunw_core_process(core_), thread.regs, true, DWUNW_ERR_NO_FILE).size(), 1u);
    ASSERT_EQ(open(), DWUNW_OK);
    EXPECT_GT(walk(dwunw_core_process(core_), thread.regs, true).size(), frames.size());
}

TEST_F(CoreTest, ArgumentsAreChecked) {
    EXPECT_EQ(open(), DWUNW_ERR_NO_FILE);
    path_ = "/bin/true";
    EXPECT_EQ(open(), DWUNW_ERR_NOT_ELF);
    path_ = "/dev/null";
    EXPECT_EQ(open(), DWUNW_ERR_NOT_ELF);
    dwunw_core_options options{
        .size = sizeof(options), .reserved = 0, .path = "/bin/true", .exe = nullptr, .sysroot = nullptr};
    EXPECT_EQ(dwunw_core_open(nullptr, &options, &core_), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_core_open(context_, nullptr, &core_), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_core_open(context_, &options, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    options.reserved = 1;
    EXPECT_EQ(dwunw_core_open(context_, &options, &core_), DWUNW_ERR_INVALID_ARGUMENT);
    options = {.size = sizeof(options) - 1, .reserved = 0, .path = "/bin/true", .exe = nullptr, .sysroot = nullptr};
    EXPECT_EQ(dwunw_core_open(context_, &options, &core_), DWUNW_ERR_STRUCT_SIZE);
    options = {.size = sizeof(options), .reserved = 0, .path = nullptr, .exe = nullptr, .sysroot = nullptr};
    EXPECT_EQ(dwunw_core_open(context_, &options, &core_), DWUNW_ERR_INVALID_ARGUMENT);

    dwunw_core_close(nullptr);
    EXPECT_EQ(dwunw_core_process(nullptr), nullptr);
    EXPECT_EQ(dwunw_core_pid(nullptr), 0);
    EXPECT_STREQ(dwunw_core_name(nullptr), "");
    EXPECT_EQ(dwunw_core_thread_count(nullptr), 0u);
    EXPECT_EQ(dwunw_core_read_memory(nullptr, 0, &options, 1), 0u);
    EXPECT_EQ(dwunw_core_write(nullptr, nullptr, nullptr, -1), DWUNW_ERR_INVALID_ARGUMENT);
}

TEST_F(CoreTest, WritingSaysWhyNot) {
    const Child child([](const Child::Line &line) {
        line.say();
        line.hear();
    });
    child.hear();
    stop(child.pid());
    dwunw_core_write_options options{.size = sizeof(options), .reserved = 0, .stack_bytes = 0};
    const dwunw::UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
    errno = 0;
    EXPECT_EQ(dwunw_core_write(process_, stopped_, &options, full.get()), DWUNW_ERR_WRITE);
    EXPECT_EQ(errno, ENOSPC);
    options.reserved = 1;
    EXPECT_EQ(dwunw_core_write(process_, stopped_, &options, full.get()), DWUNW_ERR_INVALID_ARGUMENT);
}

} // namespace
