// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// bench_replay CORPUS [--only=PROGRAM] [--slice=BYTES] [--show=N] [--threads=N] [--benchmark_…]
//
// Walks all stacks of each program again and again, by each unwinder, in one thread, warm. With
// --benchmark_enable_random_interleaving and --benchmark_repetitions, as in bench/run, the unwinders take turns.
//
// Each benchmark also compares its chains of pcs with the reference: the chain that most of the unwinders found that
// say they reached the root, otherwise the longest chain. `exact`: that chain, complete; `shorter`: the beginning of
// it; `wrong`: neither. --show prints the first N stacks that are not exact for all unwinders.
#include "unwinder.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace dwunw_bench {
namespace {

struct Agreement {
    size_t exact = 0, shorter = 0, wrong = 0, frames = 0;
};

// One program, opened by every unwinder.
struct Prepared {
    const Program *program = nullptr;
    std::vector<std::vector<std::unique_ptr<Unwound>>> opened; // by unwinder, by process
    std::vector<Agreement> agreement;                          // by unwinder
};

size_t walk_all(const Prepared &prepared, size_t unwinder) {
    size_t frames = 0;
    const auto &processes = prepared.program->processes;
    for (size_t i = 0; i < processes.size(); ++i)
        for (const Stack &stack : processes[i]->stacks)
            frames += prepared.opened[unwinder][i]->walk(stack);
    return frames;
}

const Chain &reference(const std::vector<Chain> &chains) {
    size_t best = 0;
    auto rank = [&](size_t i) {
        const auto votes = std::ranges::count_if(
            chains, [&](const Chain &other) { return other.complete && other.pcs == chains[i].pcs; });
        return std::make_tuple(chains[i].complete, votes, chains[i].pcs.size());
    };
    for (size_t i = 1; i < chains.size(); ++i)
        if (rank(i) > rank(best))
            best = i;
    return chains[best];
}

void show(const Stack &stack, const std::vector<std::unique_ptr<Unwinder>> &unwinders,
          const std::vector<Chain> &chains) {
    std::printf("%s\n", stack.name.c_str());
    size_t common = 0;
    auto same = [&](size_t i) {
        return std::ranges::all_of(
            chains, [&](const Chain &chain) { return i < chain.pcs.size() && chain.pcs[i] == chains[0].pcs[i]; });
    };
    while (same(common))
        ++common;
    for (size_t i = 0; i < chains.size(); ++i) {
        const Chain &chain = chains[i];
        std::printf("  %-10s %4zu %s:", unwinders[i]->name().c_str(), chain.pcs.size(),
                    chain.complete ? "complete" : chain.why.c_str());
        for (size_t k = common > 0 ? common - 1 : 0; k < std::min(common + 4, chain.pcs.size()); ++k)
            std::printf(" %zu:%llx", k, static_cast<unsigned long long>(chain.pcs[k]));
        std::printf("\n");
    }
}

Prepared prepare(const Program &program, const std::vector<std::unique_ptr<Unwinder>> &unwinders, size_t &to_show) {
    Prepared prepared{.program = &program, .opened = {}, .agreement = {}};
    for (const auto &unwinder : unwinders) {
        prepared.opened.emplace_back();
        for (const auto &process : program.processes)
            prepared.opened.back().push_back(unwinder->open(*process));
        walk_all(prepared, prepared.opened.size() - 1);
        unwinder->settle();
    }
    prepared.agreement.resize(unwinders.size());
    for (size_t i = 0; i < program.processes.size(); ++i) {
        for (const Stack &stack : program.processes[i]->stacks) {
            std::vector<Chain> chains;
            for (const auto &opened : prepared.opened) {
                opened[i]->walk(stack);
                chains.push_back(opened[i]->chain());
            }
            const Chain &truth = reference(chains);
            bool all_exact = true;
            for (size_t k = 0; k < chains.size(); ++k) {
                Agreement &agreement = prepared.agreement[k];
                agreement.frames += chains[k].pcs.size();
                const bool begins = chains[k].pcs.size() <= truth.pcs.size() &&
                                    std::equal(chains[k].pcs.begin(), chains[k].pcs.end(), truth.pcs.begin());
                const bool exact = begins && chains[k].complete && truth.pcs.size() == chains[k].pcs.size();
                all_exact = all_exact && exact;
                ++(exact ? agreement.exact : begins ? agreement.shorter : agreement.wrong);
            }
            if (!all_exact && to_show > 0) {
                --to_show;
                show(stack, unwinders, chains);
            }
        }
    }
    return prepared;
}

void replay(benchmark::State &state, const Prepared &prepared, size_t unwinder) {
    size_t frames = 0;
    for ([[maybe_unused]] auto turn : state)
        frames += walk_all(prepared, unwinder);
    const auto per_second = benchmark::Counter::kIsRate | benchmark::Counter::kInvert;
    const Agreement &agreement = prepared.agreement[unwinder];
    const auto stacks = static_cast<double>(prepared.program->stack_count());
    state.counters["s_per_frame"] = benchmark::Counter(static_cast<double>(frames), per_second);
    state.counters["s_per_stack"] = benchmark::Counter(stacks * static_cast<double>(state.iterations()), per_second);
    state.counters["stacks"] = stacks;
    state.counters["frames"] = static_cast<double>(agreement.frames);
    state.counters["exact"] = static_cast<double>(agreement.exact);
    state.counters["shorter"] = static_cast<double>(agreement.shorter);
    state.counters["wrong"] = static_cast<double>(agreement.wrong);
}

// Each thread walks all stacks of the program's first process; all threads share one process handle.
void replay_at_once(benchmark::State &state, const Process &process, dwunw_context *context, dwunw_process *shared) {
    std::vector<dwunw_frame> frames(kMaxFrames);
    size_t total = 0;
    for ([[maybe_unused]] auto turn : state) {
        for (const Stack &stack : process.stacks) {
            dwunw_unwind_request request{};
            request.size = sizeof(request);
            request.process = shared;
            request.regs = &stack.regs;
            request.stack_addr = stack.address;
            request.stack = stack.bytes.data();
            request.stack_size = stack.bytes.size();
            request.frames = frames.data();
            request.max_frames = frames.size();
            size_t written = 0;
            benchmark::DoNotOptimize(dwunw_capture(context, &request, &written));
            total += written;
        }
    }
    state.counters["frames_per_s"] = benchmark::Counter(static_cast<double>(total), benchmark::Counter::kIsRate);
}

// The caller must close the core after the benchmarks.
dwunw_core *add_scaling(const Program &program, int threads, Dwunw &dwunw) {
    const Process &process = *program.processes.front();
    dwunw_core_options options{};
    options.size = sizeof(options);
    options.path = process.core.c_str();
    dwunw_core *core = nullptr;
    if (dwunw_core_open(dwunw.context(), &options, &core) != DWUNW_OK)
        fail(process.core);
    for (const int count : {1, threads})
        benchmark::RegisterBenchmark(("threads/" + program.name).c_str(),
                                     [&process, &dwunw, core](benchmark::State &state) {
                                         replay_at_once(state, process, dwunw.context(), dwunw_core_process(core));
                                     })
            ->Threads(count)
            ->UseRealTime();
    return core;
}

int run(int argc, char **argv) {
    benchmark::Initialize(&argc, argv);
    CorpusOptions options;
    size_t to_show = 0;
    int threads = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const std::string name = word.substr(0, word.find('=') + 1);
        const std::string value = word.substr(name.size());
        if (name == "--only=")
            options.only = value;
        else if (name == "--slice=")
            options.slice = std::stoull(value);
        else if (name == "--show=")
            to_show = std::stoull(value);
        else if (name == "--threads=")
            threads = std::stoi(value);
        else if (word.starts_with('-') || !options.folder.empty())
            fail("unknown: " + word);
        else
            options.folder = word;
    }
    if (options.folder.empty())
        fail("usage: bench_replay CORPUS [--only=PROGRAM] [--slice=BYTES] [--show=N] [--threads=N] [--benchmark_…]");

    const std::vector<Program> programs = load_corpus(options);
    const auto unwinders = all_unwinders();
    if (threads > 0) {
        auto &dwunw = dynamic_cast<Dwunw &>(*unwinders.front());
        std::vector<std::unique_ptr<dwunw_core, decltype(&dwunw_core_close)>> cores;
        cores.reserve(programs.size());
        for (const Program &program : programs)
            cores.emplace_back(add_scaling(program, threads, dwunw), dwunw_core_close);
        benchmark::RunSpecifiedBenchmarks();
        return 0;
    }
    std::vector<Prepared> prepared;
    prepared.reserve(programs.size());
    for (const Program &program : programs)
        prepared.push_back(prepare(program, unwinders, to_show));
    for (const Prepared &one : prepared)
        for (size_t i = 0; i < unwinders.size(); ++i)
            benchmark::RegisterBenchmark(("replay/" + one.program->name + "/" + unwinders[i]->name()).c_str(),
                                         [&one, i](benchmark::State &state) { replay(state, one, i); })
                ->Unit(benchmark::kMicrosecond);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}

} // namespace
} // namespace dwunw_bench

int main(int argc, char **argv) { return dwunw_bench::run(argc, argv); }
