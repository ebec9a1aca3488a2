// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// bench_allocations CORPUS: counts calls of malloc, calloc, realloc and aligned_alloc (so also of operator new) in a
// warm replay.
//
// Walks everything twice, and counts the allocations of the second time. Prints JSON: stacks and allocations, by
// unwinder and program. Stacks that need the full interpreter may allocate; `interpreted` counts them.
#include "unwinder.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <cstdio>

namespace {
std::atomic<size_t> allocations = 0;
}

// glibc's own allocator, under names that stay glibc's if a program defines the usual ones.
extern "C" {
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_memalign(alignment, size);
}
}

namespace dwunw_bench {
namespace {

int run(const char *folder) {
    CorpusOptions options;
    options.folder = folder;
    const std::vector<Program> programs = load_corpus(options);
    const auto unwinders = all_unwinders();
    nlohmann::ordered_json out;
    for (const auto &unwinder : unwinders) {
        for (const Program &program : programs) {
            std::vector<std::unique_ptr<Unwound>> opened;
            auto walk_all = [&] {
                for (size_t i = 0; i < program.processes.size(); ++i)
                    for (const Stack &stack : program.processes[i]->stacks)
                        opened[i]->walk(stack);
            };
            for (const auto &process : program.processes)
                opened.push_back(unwinder->open(*process));
            walk_all();
            unwinder->settle();
            walk_all(); // warm
            const size_t before = allocations;
            walk_all();
            const size_t count = allocations - before;
            size_t interpreted = 0;
            for (const auto &process : opened)
                interpreted += process->interpreted();
            out[unwinder->name()][program.name] = {
                {"stacks", program.stack_count()}, {"allocations", count}, {"interpreted", interpreted / 3}};
        }
    }
    std::printf("%s\n", out.dump(2).c_str());
    return 0;
}

} // namespace
} // namespace dwunw_bench

int main(int argc, char **argv) {
    if (argc != 2)
        dwunw_bench::fail("usage: bench_allocations CORPUS");
    return dwunw_bench::run(argv[1]);
}
