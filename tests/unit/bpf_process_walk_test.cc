// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares the walk of dwunw.bpf.h, as user code, with dwunw_capture: on real programs, stopped and as core files.
#include "support/bpf_user_walk.h"

#include "abi/handles.h"
#include "bpf/table_encoding.h"
#include "process/process.h"

#include <dwunw/core.h>
#include <dwunw/process.h>

#include <gtest/gtest.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>

namespace dwunw::bpf {
namespace {

constexpr std::array<uint8_t, DWUNW_BPF_PT_REGS> kDwarf = {15, 14, 13, 12, 6,    3,  11,   10,   9, 8,   0,
                                                           2,  1,  4,  5,  0xff, 16, 0xff, 0xff, 7, 0xff};

// A child that runs a program.
class Child {
  public:
    explicit Child(std::vector<const char *> arguments) {
        arguments.push_back(nullptr);
        int ready[2];
        EXPECT_EQ(::pipe2(ready, O_CLOEXEC), 0);
        pid_ = ::fork();
        if (pid_ == 0) {
            ::setpgid(0, 0);
            ::dup2(ready[1], STDOUT_FILENO);
            ::execvp(arguments[0], const_cast<char **>(arguments.data()));
            ::_exit(127);
        }
        ::close(ready[1]);
        // It says so when it has come as deep as it will.
        char byte = 0;
        EXPECT_EQ(::read(ready[0], &byte, 1), 1) << arguments[0];
        ::close(ready[0]);
    }
    ~Child() {
        ::kill(-pid_, SIGKILL); // its children as well
        ::waitpid(pid_, nullptr, 0);
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;
    pid_t pid() const { return pid_; }

  private:
    pid_t pid_ = -1;
};

// What the loader would publish of a process.
struct PublishedProcess {
    explicit PublishedProcess(dwunw_process &process) {
        for (const auto &mapping : process.impl->code_mappings().mappings) {
            dwunw_mapping out = {mapping.start.value, mapping.end.value, 0, 0, DWUNW_BPF_NO_TABLE};
            if (mapping.cfi != nullptr) {
                const unwind::Table &table = **mapping.cfi->compile();
                const auto cells = table_cells(table);
                out.kind = DWUNW_MAPPING_MODULE;
                out.table = static_cast<uint32_t>(pool.size());
                out.origin = mapping.binding.bias.run(table.base()).value;
                pool.insert(pool.end(), cells.begin(), cells.end());
            }
            mappings.push_back(out);
        }
        slot.generation = 1;
        slot.layout = 1;
        slot.tgid = 1;
        slot.code_filter = ~0ull;
        slot.count = static_cast<uint32_t>(mappings.size());
    }
    std::vector<uint64_t> pool;
    std::vector<dwunw_mapping> mappings;
    std::vector<dwunw_cached_rule> rules{size_t{1} << DWUNW_BPF_CACHE_BITS};
    dwunw_process_slot slot{};
};

struct Memory {
    dwunw_read_memory_fn read;
    void *arg;
};

int read_all(void *arg, uint64_t address, void *buffer, size_t length) {
    const auto &memory = *static_cast<Memory *>(arg);
    return memory.read(memory.arg, address, buffer, length) == length;
}

// Walks one thread in both ways, the kernel's cold and warm. Returns how many frames the kernel's has, 0 where it left
// the stack to user space.
size_t compare(dwunw_context *context, dwunw_process *process, const dwunw_regset &regs, Memory memory,
               PublishedProcess &published) {
    std::vector<dwunw_frame> frames(1024);
    const dwunw_unwind_request request = {
        .size = sizeof(request),
        .options = 0,
        .process = process,
        .regs = &regs,
        .stack_addr = 0,
        .stack = nullptr,
        .stack_size = 0,
        .read_memory = memory.read,
        .memory_arg = memory.arg,
        .pending_returns = nullptr,
        .pending_return_count = 0,
        .frames = frames.data(),
        .max_frames = frames.size(),
    };
    size_t written = 0;
    const dwunw_status status = dwunw_capture(context, &request, &written);

    std::array<uint64_t, DWUNW_BPF_PT_REGS> pt_regs{};
    for (size_t i = 0; i < pt_regs.size(); ++i)
        if (kDwarf[i] != 0xff)
            pt_regs[i] = regs.regs[kDwarf[i]];
    pt_regs[17] = 0x33;
    auto world = std::make_unique<bpf_user_world>();
    world->settings = {1, 1, DWUNW_BPF_MAX_FRAMES, DWUNW_BPF_SLICE_MAX, 0, 1000, 0, 0, 0, 0, 0};
    world->pool = published.pool.data();
    world->pool_cells = published.pool.size();
    world->mappings = published.mappings.data();
    world->mapping_count = published.mappings.size();
    world->process = &published.slot;
    world->rules = published.rules.data();
    world->read = read_all;
    world->arg = &memory;
    world->stack_end = ~uint64_t{0};
    for (int again = 0; again < 2; ++again) {
        world->sent_count = 0;
        EXPECT_GT(bpf_user_get_stackid(world.get(), pt_regs.data(), 0), 0);
        if (world->reason != DWUNW_BPF_COMPLETE)
            continue;
        EXPECT_EQ(status, DWUNW_OK) << "complete in the kernel alone";
        EXPECT_EQ(world->stack.count, written);
        for (size_t i = 0; i < written && i < world->stack.count; ++i) {
            const uint64_t word = world->stack.frames[i];
            EXPECT_EQ(word & DWUNW_BPF_FRAME_PC, frames[i].pc) << i;
            EXPECT_EQ((word & DWUNW_BPF_FRAME_EXACT) != 0, (frames[i].flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0) << i;
        }
    }
    if (world->reason == DWUNW_BPF_COMPLETE)
        return world->stack.count;
    const bool by_rules = std::ranges::all_of(std::span(frames).first(written), [](const dwunw_frame &frame) {
        return frame.source == DWUNW_SOURCE_REGISTERS || frame.source == DWUNW_SOURCE_CFI;
    });
    EXPECT_FALSE(status == DWUNW_OK && by_rules && written < DWUNW_BPF_MAX_FRAMES)
        << "sent to user space, which needed only rules: reason " << world->reason;
    return 0;
}

class ProcessWalk : public ::testing::Test {
  protected:
    ProcessWalk() { EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK); }
    ~ProcessWalk() override { dwunw_shutdown(context_); }

    // How many frames the kernel's walk has in all threads together, at `moments` moments.
    size_t walk_live(pid_t pid, int moments) {
        const dwunw_process_options options = {sizeof(options), pid, nullptr, nullptr, nullptr, nullptr};
        dwunw_process *process = nullptr;
        EXPECT_EQ(dwunw_process_open(context_, &options, &process), DWUNW_OK);
        size_t frames = 0;
        for (int i = 0; i < moments; ++i) {
            dwunw_stopped *stopped = nullptr;
            EXPECT_EQ(dwunw_process_stop(process, &stopped), DWUNW_OK);
            PublishedProcess published(*process);
            for (size_t t = 0; t < dwunw_stopped_thread_count(stopped); ++t) {
                dwunw_thread thread{};
                thread.size = sizeof(thread);
                if (dwunw_stopped_thread(stopped, t, &thread) == DWUNW_OK)
                    frames += compare(context_, process, thread.regs, {dwunw_process_read_memory, process}, published);
            }
            dwunw_process_resume(stopped);
        }
        dwunw_process_close(process);
        return frames;
    }

    size_t walk_core(const std::string &path) {
        const dwunw_core_options options = {sizeof(options), 0, path.c_str(), nullptr, nullptr};
        dwunw_core *core = nullptr;
        EXPECT_EQ(dwunw_core_open(context_, &options, &core), DWUNW_OK) << path;
        if (core == nullptr)
            return 0;
        PublishedProcess published(*dwunw_core_process(core));
        size_t frames = 0;
        for (size_t t = 0; t < dwunw_core_thread_count(core); ++t) {
            dwunw_thread thread{};
            thread.size = sizeof(thread);
            EXPECT_EQ(dwunw_core_thread(core, t, &thread), DWUNW_OK);
            frames +=
                compare(context_, dwunw_core_process(core), thread.regs, {dwunw_core_read_memory, core}, published);
        }
        dwunw_core_close(core);
        return frames;
    }

    dwunw_context *context_ = nullptr;
};

constexpr const char *kPython = R"(
import json, os, re, sys, threading, time
def deep(n):
    return sorted([1, 2], key=lambda _: deep(n - 1)) if n else wait()
def wait():
    os.write(1, b'x')
    while True:
        re.sub('a', lambda m: json.dumps({'b': 'a' * 50}), 'a' * 100)
for i in range(3):
    threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()
deep(5)
)";

TEST_F(ProcessWalk, LiveProgramsAreWalkedAlike) {
    const Child python({"python3", "-c", kPython});
    EXPECT_GT(walk_live(python.pid(), 20), 20u * 20);
    const Child shell(
        {"bash", "-c",
         "f() { if [ $1 = 0 ]; then echo x; read -t 1000 < <(sleep 1000); else f $(($1 - 1)); fi; }; f 12"});
    EXPECT_GT(walk_live(shell.pid(), 1), 10u);
    const Child perl({"perl", "-e",
                      "$| = 1; print 'x'; sub f { my $n = shift; $n ? f($n - 1) : f(20) } "
                      "while (1) { my %h = map { $_ => sprintf '%s', $_ } 1 .. 100; sort { $a <=> $b } values %h }"});
    EXPECT_GT(walk_live(perl.pid(), 20), 20u * 4);
}

TEST_F(ProcessWalk, CoreFilesAreWalkedAlike) {
    const Child python({"python3", "-c", kPython});
    const std::string path =
        (std::filesystem::temp_directory_path() / ("dwunw_bpf_" + std::to_string(python.pid()))).string();
    const std::string command =
        "gdb -nx -batch -p " + std::to_string(python.pid()) + " -ex 'generate-core-file " + path + "' > /dev/null 2>&1";
    ASSERT_EQ(std::system(command.c_str()), 0);
    EXPECT_GT(walk_core(path), 20u);
    std::filesystem::remove(path);
}

} // namespace
} // namespace dwunw::bpf
