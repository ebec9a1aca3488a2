// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// bench_cold CORPUS [--only=PROGRAM] [--benchmark_…]
//
// Times the first stack. Each iteration is timed by itself, without its preparation. Files are in the page cache.
//
//     known/PROGRAM/UNWINDER  a new process with known modules. An unwinder that keeps nothing between processes must
//     read
//                             the modules again. `open` is the time that opening the process took.
//     live/dwunw              the same for a live process, this program's own child.
//     never_seen/PROGRAM      the process is open, and no module is known. The walk does not wait for the biggest
//     table.
#include "unwinder.h"

#include <benchmark/benchmark.h>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>

namespace dwunw_bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The deepest stack of a program's first process.
const Stack &deepest(const Process &process, Unwinder &unwinder) {
    const auto opened = unwinder.open(process);
    return *std::ranges::max_element(process.stacks, {}, [&](const Stack &stack) { return opened->walk(stack); });
}

void known(benchmark::State &state, const Process &process, const Stack &stack, Unwinder &unwinder) {
    unwinder.open(process)->walk(stack);
    unwinder.settle();
    double opening = 0;
    for ([[maybe_unused]] auto turn : state) {
        const auto start = Clock::now();
        const auto opened = unwinder.open(process);
        opening += seconds_since(start);
        const auto first = Clock::now();
        state.counters["frames"] = static_cast<double>(opened->walk(stack));
        state.SetIterationTime(seconds_since(first));
    }
    state.counters["open_s"] = opening / static_cast<double>(state.iterations());
}

void never_seen(benchmark::State &state, const Process &process, const Stack &stack) {
    for ([[maybe_unused]] auto turn : state) {
        Dwunw fresh;
        const auto opened = fresh.open(process);
        const auto start = Clock::now();
        state.counters["frames"] = static_cast<double>(opened->walk(stack));
        state.SetIterationTime(seconds_since(start));
    }
    uint64_t largest = 0;
    for (const MappedModule &mapped : process.modules)
        largest = std::max(largest, mapped.module->bytes().size());
    state.counters["largest_file_bytes"] = static_cast<double>(largest);
}

// A child of this program, stopped once at `pause`, so that registers and stack are those of a real moment.
class Child {
  public:
    explicit Child(dwunw_context *context) : context_(context), pid_(::fork()) {
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (true)
                ::pause();
        }
        dwunw_process *process = open();
        dwunw_stopped *stopped = nullptr;
        dwunw_thread thread{};
        thread.size = sizeof(thread);
        if (dwunw_process_stop(process, &stopped) != DWUNW_OK || dwunw_stopped_thread(stopped, 0, &thread) != DWUNW_OK)
            fail("cannot stop a child");
        stack_.regs = thread.regs;
        stack_.address = thread.regs.regs[7] - DWUNW_RED_ZONE;
        stack_.bytes.resize(size_t{64} << 10);
        stack_.bytes.resize(
            dwunw_process_read_memory(process, stack_.address, stack_.bytes.data(), stack_.bytes.size()));
        dwunw_process_resume(stopped);
        dwunw_process_close(process);
    }
    ~Child() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;

    dwunw_process *open() const {
        dwunw_process_options options{};
        options.size = sizeof(options);
        options.pid = pid_;
        dwunw_process *process = nullptr;
        if (dwunw_process_open(context_, &options, &process) != DWUNW_OK)
            fail("cannot open a child");
        return process;
    }
    const Stack &stack() const { return stack_; }

  private:
    dwunw_context *context_;
    pid_t pid_;
    Stack stack_{};
};

void live(benchmark::State &state, const Child &child, const Dwunw &dwunw) {
    std::vector<dwunw_frame> frames(kMaxFrames);
    double opening = 0;
    for ([[maybe_unused]] auto turn : state) {
        const auto start = Clock::now();
        dwunw_process *process = child.open();
        opening += seconds_since(start);
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.process = process;
        request.regs = &child.stack().regs;
        request.stack_addr = child.stack().address;
        request.stack = child.stack().bytes.data();
        request.stack_size = child.stack().bytes.size();
        request.frames = frames.data();
        request.max_frames = frames.size();
        size_t written = 0;
        const auto first = Clock::now();
        if (dwunw_capture(dwunw.context(), &request, &written) != DWUNW_OK)
            fail("the child's stack is incomplete");
        state.SetIterationTime(seconds_since(first));
        state.counters["frames"] = static_cast<double>(written);
        dwunw_process_close(process);
    }
    state.counters["open_s"] = opening / static_cast<double>(state.iterations());
}

int run(int argc, char **argv) {
    benchmark::Initialize(&argc, argv);
    CorpusOptions options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word.starts_with("--only="))
            options.only = word.substr(word.find('=') + 1);
        else if (word.starts_with('-') || !options.folder.empty())
            fail("unknown: " + word);
        else
            options.folder = word;
    }
    if (options.folder.empty())
        fail("usage: bench_cold CORPUS [--only=PROGRAM] [--benchmark_…]");

    const std::vector<Program> programs = load_corpus(options);
    const auto unwinders = all_unwinders();
    auto &dwunw = dynamic_cast<Dwunw &>(*unwinders.front());
    const Child child(dwunw.context());
    auto add = [](const std::string &name, auto &&function) {
        benchmark::RegisterBenchmark(name.c_str(), function)->UseManualTime()->Unit(benchmark::kMicrosecond);
    };
    for (const Program &program : programs) {
        const Process &process = *program.processes.front();
        const Stack &stack = deepest(process, dwunw);
        for (const auto &unwinder : unwinders)
            add("known/" + program.name + "/" + unwinder->name(),
                [&](benchmark::State &state) { known(state, process, stack, *unwinder); });
        add("never_seen/" + program.name, [&](benchmark::State &state) { never_seen(state, process, stack); });
    }
    add("live/dwunw", [&](benchmark::State &state) { live(state, child, dwunw); });
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}

} // namespace
} // namespace dwunw_bench

int main(int argc, char **argv) { return dwunw_bench::run(argc, argv); }
