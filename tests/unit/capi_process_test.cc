// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Processes through the C ABI: live ones, ones that end during the test, and maps without a process.
#include <dwunw/process.h>

#include "process_testing.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <sys/mman.h>

#include <array>
#include <fstream>

namespace {

using dwunw::testing::Child;

class ProcessTest : public ::testing::Test {
  protected:
    ProcessTest() { EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK); }
    ~ProcessTest() override {
        dwunw_process_close(process_);
        dwunw_shutdown(context_);
    }
    dwunw_status open(pid_t pid, const char *maps = nullptr) {
        const dwunw_process_options options{.size = sizeof(options),
                                            .pid = pid,
                                            .maps = maps,
                                            .exe = nullptr,
                                            .sysroot = nullptr,
                                            .maps_error_line = nullptr};
        return dwunw_process_open(context_, &options, &process_);
    }
    dwunw_process_counters counters() const {
        dwunw_process_counters result{};
        result.size = sizeof(result);
        EXPECT_EQ(dwunw_process_get_counters(process_, &result), DWUNW_OK);
        return result;
    }
    const dwunw_module *module_at(const void *address, uint64_t *link_address = nullptr) {
        const dwunw_module *module = nullptr;
        EXPECT_EQ(dwunw_process_find_module(process_, reinterpret_cast<uint64_t>(address), &module, link_address),
                  DWUNW_OK);
        return module;
    }

    dwunw_context *context_ = nullptr;
    dwunw_process *process_ = nullptr;
};

TEST_F(ProcessTest, ItsModulesAreFoundByAddress) {
    ASSERT_EQ(open(::getpid()), DWUNW_OK);
    Dl_info libc{}; // of a function that no sanitizer takes over
    ASSERT_NE(::dladdr(reinterpret_cast<void *>(&::gnu_get_libc_version), &libc), 0);
    uint64_t link_address = 0;
    const dwunw_module *module = module_at(libc.dli_saddr, &link_address);
    ASSERT_NE(module, nullptr);
    EXPECT_EQ(link_address, reinterpret_cast<uint64_t>(libc.dli_saddr) - reinterpret_cast<uint64_t>(libc.dli_fbase));
    EXPECT_NE(std::string(dwunw_module_path(module)).find("libc.so.6"), std::string::npos);
    const uint8_t *build_id = nullptr;
    EXPECT_EQ(dwunw_module_build_id(module, &build_id), 20u);
    EXPECT_NE(build_id, nullptr);
    EXPECT_GT(dwunw_module_size(module), 1'000'000u);
    EXPECT_GE(dwunw_module_fd(module), 0);
    char magic[5] = {};
    EXPECT_EQ(dwunw_module_read(module, 0, magic, 4), 4u);
    EXPECT_STREQ(magic, "\177ELF");
    EXPECT_EQ(dwunw_module_read(module, dwunw_module_size(module), magic, 4), 0u);
    EXPECT_EQ(dwunw_module_read(module, ~uint64_t{0}, magic, 4), 0u);

    const dwunw_module *none = nullptr;
    EXPECT_EQ(dwunw_process_find_module(process_, 0x10, &none, nullptr), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(none, nullptr);
}

TEST_F(ProcessTest, TheVdsoIsReadFromMemory) {
    ASSERT_EQ(open(::getpid()), DWUNW_OK);
    std::ifstream maps("/proc/self/maps");
    uint64_t start = 0;
    for (std::string line; std::getline(maps, line);)
        if (line.ends_with("[vdso]"))
            start = std::stoull(line, nullptr, 16);
    ASSERT_NE(start, 0u);
    const dwunw_module *module = module_at(reinterpret_cast<void *>(start + 0x800));
    ASSERT_NE(module, nullptr);
    EXPECT_STREQ(dwunw_module_path(module), "[vdso]");
    EXPECT_EQ(dwunw_module_fd(module), -1);
    char magic[4];
    EXPECT_EQ(dwunw_module_read(module, 0, magic, 4), 4u);
    EXPECT_EQ(std::memcmp(magic, "\177ELF", 4), 0);
}

TEST_F(ProcessTest, MapsWithoutAProcess) {
    ASSERT_EQ(open(0, "00400000-00500000 r-xp 00000000 00:00 0 \n"
                      "7f0000000000-7f0000100000 r-xp 00000000 08:01 12345 /no/such/library.so\n"),
              DWUNW_OK);
    const dwunw_module *module = nullptr;
    EXPECT_EQ(dwunw_process_find_module(process_, 0x7f0000000010, &module, nullptr), DWUNW_ERR_NO_FILE);
    EXPECT_EQ(dwunw_process_find_module(process_, 0x600000, &module, nullptr), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(dwunw_process_refresh(process_), DWUNW_OK); // changes nothing
    EXPECT_EQ(counters().modules_failed, 1u);
    uint64_t word = 0;
    EXPECT_EQ(dwunw_process_read_memory(process_, 0x400000, &word, sizeof(word)), 0u);
    dwunw_stopped *stopped = nullptr;
    EXPECT_NE(dwunw_process_stop(process_, &stopped), DWUNW_OK);
}

TEST_F(ProcessTest, MalformedMapsAreRefused) {
    for (const char *maps : {"x", "1-0 r-xp 0 0:0 0 \n", "0040000000500000 r-xp 00000000 00:00 0 \n"})
        EXPECT_EQ(open(0, maps), DWUNW_ERR_MAPS_MALFORMED) << maps;
    EXPECT_EQ(process_, nullptr);
}

TEST_F(ProcessTest, TheMalformedLineOfAMap) {
    uint64_t line = 0;
    dwunw_process_options options{};
    options.size = sizeof(options);
    options.maps = "1000-2000 r-xp 00000000 00:00 0 \n2000-3000 r-xp 00000000 00:00 0 bin/program\n";
    EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_ERR_MAPS_MALFORMED);
    options.maps_error_line = &line;
    EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_ERR_MAPS_MALFORMED);
    EXPECT_EQ(line, 2u);
    EXPECT_EQ(process_, nullptr);
}

TEST_F(ProcessTest, WhereTheFilesOfAMapAre) {
    dwunw_process_options options{};
    options.size = sizeof(options);
    options.maps = "1000-2000 r--p 00000000 08:01 1 /there/program\n3000-4000 r--p 00000000 08:01 2 /self/exe\n";
    options.exe = "/proc/self/exe";
    options.sysroot = "/proc";
    ASSERT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_OK);
    EXPECT_STREQ(dwunw_module_path(module_at(reinterpret_cast<void *>(0x1010))), "/there/program");
    EXPECT_STREQ(dwunw_module_path(module_at(reinterpret_cast<void *>(0x3010))), "/self/exe");
}

// A caller that was compiled when `maps` was the last field, and one of a later version.
TEST_F(ProcessTest, OptionsOfOtherSizes) {
    struct Longer {
        dwunw_process_options known;
        uint64_t unknown;
    } options{};
    options.known.exe = "not read";
    options.known.pid = ::getpid();
    options.known.size = offsetof(dwunw_process_options, exe);
    ASSERT_EQ(dwunw_process_open(context_, &options.known, &process_), DWUNW_OK);
    dwunw_process_close(process_);
    process_ = nullptr;
    options.known.exe = nullptr;
    options.known.size = sizeof(options);
    ASSERT_EQ(dwunw_process_open(context_, &options.known, &process_), DWUNW_OK);
    dwunw_process_close(process_);
    process_ = nullptr;
    options.unknown = 1;
    EXPECT_EQ(dwunw_process_open(context_, &options.known, &process_), DWUNW_ERR_STRUCT_SIZE);
    options.known.size = 1 << 20;
    EXPECT_EQ(dwunw_process_open(context_, &options.known, &process_), DWUNW_ERR_STRUCT_SIZE);
}

TEST_F(ProcessTest, MemoryIsReadUpToItsEnd) {
    Child child([](const Child::Line &line) {
        const uint64_t words[2] = {0x1122334455667788, 0x99};
        line.say(reinterpret_cast<uint64_t>(words));
        line.hear();
    });
    const uint64_t address = child.hear();
    ASSERT_EQ(open(child.pid()), DWUNW_OK);
    uint64_t words[2] = {};
    EXPECT_EQ(dwunw_process_read_memory(process_, address, words, sizeof(words)), sizeof(words));
    EXPECT_EQ(words[0], 0x1122334455667788u);
    EXPECT_EQ(dwunw_process_read_memory(process_, 0x10, words, sizeof(words)), 0u);
}

TEST_F(ProcessTest, AMapThatVanishes) {
    // The library's code is unmapped after its map was read: the map is read again, and says so.
    Child child([](const Child::Line &line) {
        void *code = ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        line.say(reinterpret_cast<uint64_t>(code));
        line.hear();
        ::munmap(code, 4096);
        line.say();
        line.hear();
    });
    const uint64_t address = child.hear();
    ASSERT_EQ(open(child.pid()), DWUNW_OK);
    const dwunw_module *module = nullptr;
    EXPECT_NE(dwunw_process_find_module(process_, address, &module, nullptr), DWUNW_OK); // JIT code: no file
    child.say();
    child.hear();
    ASSERT_EQ(dwunw_process_refresh(process_), DWUNW_OK);
    EXPECT_EQ(dwunw_process_find_module(process_, address, &module, nullptr), DWUNW_ERR_NO_MAPPING);
    EXPECT_GE(counters().map_reads, 2u);
}

TEST_F(ProcessTest, AProcessThatEndsMeanwhile) {
    Child child([](const Child::Line &line) { line.hear(); });
    ASSERT_EQ(open(child.pid()), DWUNW_OK);
    const dwunw_module *before = module_at(reinterpret_cast<void *>(&::qsort)); // forked: it lies where ours does
    child.kill_to_zombie();
    child.reap();
    EXPECT_EQ(dwunw_process_refresh(process_), DWUNW_ERR_NO_PROCESS);
    // The last map stays in use, and its files are open.
    EXPECT_EQ(module_at(reinterpret_cast<void *>(&::qsort)), before);
    char magic[4];
    EXPECT_EQ(dwunw_module_read(before, 0, magic, 4), 4u);
    uint64_t word = 0;
    EXPECT_EQ(dwunw_process_read_memory(process_, reinterpret_cast<uint64_t>(&word), &word, sizeof(word)), 0u);
    dwunw_stopped *stopped = nullptr;
    EXPECT_EQ(dwunw_process_stop(process_, &stopped), DWUNW_ERR_NO_PROCESS);
    EXPECT_EQ(stopped, nullptr);
}

__attribute__((noinline)) uint64_t return_address() { return reinterpret_cast<uint64_t>(__builtin_return_address(0)); }

TEST_F(ProcessTest, AChainFoundByAnotherWalk) {
    ASSERT_EQ(open(::getpid()), DWUNW_OK);
    const uint64_t here = return_address();
    std::array<dwunw_frame, 2> frames{};
    size_t certain = 9;
    const auto check = [&](uint64_t first, uint64_t second) {
        const std::array<uint64_t, 2> addresses = {first, second};
        certain = 9;
        return dwunw_process_check_frame_chain(process_, addresses.data(), 2, frames.data(), &certain);
    };
    ASSERT_EQ(check(here, here), DWUNW_OK);
    EXPECT_GE(certain, 1u);
    EXPECT_LE(certain, 2u);
    EXPECT_EQ(frames[0].pc, here);
    EXPECT_EQ(frames[0].module, module_at(reinterpret_cast<void *>(here)));
    EXPECT_EQ(check(here, 0x4200000000), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(certain, 0u);
    EXPECT_EQ(check(reinterpret_cast<uint64_t>(&frames), here), DWUNW_ERR_NO_MAPPING) << "mapped, and no code";
    EXPECT_EQ(check(here, reinterpret_cast<uint64_t>(&return_address) + 1), DWUNW_ERR_NOT_FOUND) << "no call";
    EXPECT_EQ(dwunw_process_check_frame_chain(process_, &here, 0, frames.data(), &certain), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_process_check_frame_chain(nullptr, &here, 1, frames.data(), &certain), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_process_check_frame_chain(process_, &here, 1, frames.data(), nullptr), DWUNW_ERR_INVALID_ARGUMENT);
}

TEST_F(ProcessTest, StoppedThreadsHaveTheirRegisters) {
    Child child([](const Child::Line &line) {
        line.say();
        line.hear();
    });
    child.hear();
    ASSERT_EQ(open(child.pid()), DWUNW_OK);
    dwunw_stopped *stopped = nullptr;
    ASSERT_EQ(dwunw_process_stop(process_, &stopped), DWUNW_OK);
    ASSERT_EQ(dwunw_stopped_thread_count(stopped), 1u);
    dwunw_thread thread{};
    thread.size = sizeof(thread);
    ASSERT_EQ(dwunw_stopped_thread(stopped, 0, &thread), DWUNW_OK);
    EXPECT_EQ(thread.tid, child.pid());
    EXPECT_NE(thread.name[0], '\0');
    EXPECT_EQ(thread.regs.size, sizeof(thread.regs));
    EXPECT_EQ(thread.regs.arch, uint32_t{DWUNW_ARCH_X86_64});
    EXPECT_EQ(thread.regs.valid & 0x1ffff, 0x1ffffu);
    EXPECT_NE(thread.regs.regs[16], 0u);
    EXPECT_NE(dwunw_stopped_thread(stopped, 1, &thread), DWUNW_OK);
    thread.size = 1;
    EXPECT_EQ(dwunw_stopped_thread(stopped, 0, &thread), DWUNW_ERR_STRUCT_SIZE);
    dwunw_process_resume(stopped);
}

// For a thread that must not be made to wait.
TEST_F(ProcessTest, StoppingAloneReadsNoMap) {
    const Child child([](const Child::Line &line) {
        line.say();
        line.hear();
    });
    child.hear();
    ASSERT_EQ(open(child.pid()), DWUNW_OK);
    const auto map_reads = [&] {
        dwunw_process_counters counters{};
        counters.size = sizeof(counters);
        EXPECT_EQ(dwunw_process_get_counters(process_, &counters), DWUNW_OK);
        return counters.map_reads;
    };
    const uint64_t before = map_reads();
    for (const uint64_t patience : {uint64_t{0}, uint64_t{1'000'000'000}, UINT64_MAX}) {
        dwunw_stopped *stopped = nullptr;
        ASSERT_EQ(dwunw_process_stop_threads(process_, patience, &stopped), DWUNW_OK);
        EXPECT_EQ(dwunw_stopped_thread_count(stopped), 1u);
        EXPECT_EQ(map_reads(), before);
        dwunw_process_resume(stopped);
    }
    dwunw_stopped *stopped = nullptr;
    ASSERT_EQ(dwunw_process_stop(process_, &stopped), DWUNW_OK);
    EXPECT_EQ(map_reads(), before + 1);
    dwunw_process_resume(stopped);
    EXPECT_EQ(dwunw_process_stop_threads(process_, 0, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_process_stop_threads(nullptr, 0, &stopped), DWUNW_ERR_INVALID_ARGUMENT);
}

TEST_F(ProcessTest, InvalidArgumentsAreRefused) {
    dwunw_process_options options{.size = sizeof(options),
                                  .pid = 0,
                                  .maps = nullptr,
                                  .exe = nullptr,
                                  .sysroot = nullptr,
                                  .maps_error_line = nullptr};
    EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_ERR_INVALID_ARGUMENT); // neither
    options = {
        .size = 8, .pid = ::getpid(), .maps = nullptr, .exe = nullptr, .sysroot = nullptr, .maps_error_line = nullptr};
    EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_ERR_STRUCT_SIZE);
    options.size = sizeof(options);
    EXPECT_EQ(dwunw_process_open(nullptr, &options, &process_), DWUNW_ERR_INVALID_ARGUMENT);
    options.exe = "/bin/cat"; // where the process's program is, the process says
    EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_process_refresh(nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_process_find_module(nullptr, 0, nullptr, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_process_stop(nullptr, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(process_, nullptr);
}

} // namespace
