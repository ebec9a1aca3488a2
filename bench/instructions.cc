// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// valgrind --tool=callgrind --instr-atstart=no bench_instructions CORPUS
//
// Counts instructions for each frame, which no other load on the machine disturbs. Walks everything until it is warm,
// then once more for each unwinder with collection on. callgrind's dump i, counted from 1, is that of unwinder i.
// Prints JSON: the frames walked, by unwinder. bench/run divides.
#include "unwinder.h"

#include <nlohmann/json.hpp>
#include <valgrind/callgrind.h>

#include <cstdio>

namespace dwunw_bench {
namespace {

int run(const char *folder, size_t stacks) {
    CorpusOptions options;
    options.folder = folder;
    options.stacks = stacks;
    const std::vector<Program> programs = load_corpus(options);
    const auto unwinders = all_unwinders();
    nlohmann::ordered_json out;
    for (const auto &unwinder : unwinders) {
        std::vector<std::pair<std::unique_ptr<Unwound>, const Process *>> opened;
        for (const Program &program : programs)
            for (const auto &process : program.processes)
                opened.emplace_back(unwinder->open(*process), process.get());
        auto walk_all = [&] {
            size_t frames = 0;
            for (const auto &[unwound, process] : opened)
                for (const Stack &stack : process->stacks)
                    frames += unwound->walk(stack);
            return frames;
        };
        walk_all();
        unwinder->settle();
        walk_all();
        CALLGRIND_START_INSTRUMENTATION;
        CALLGRIND_ZERO_STATS;
        const size_t frames = walk_all();
        CALLGRIND_DUMP_STATS;
        CALLGRIND_STOP_INSTRUMENTATION;
        out[unwinder->name()] = {{"frames", frames}};
    }
    std::printf("%s\n", out.dump(2).c_str());
    return 0;
}

} // namespace
} // namespace dwunw_bench

int main(int argc, char **argv) {
    constexpr size_t kStacks = 20; // of a program: callgrind is slow
    if (argc != 2)
        dwunw_bench::fail("usage: bench_instructions CORPUS");
    return dwunw_bench::run(argv[1], kStacks);
}
