// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// core_write_test tests the chosen contents, together with the writing. This test measures the cost of choosing, in
// bytes that the whole program allocates.
#include "core/contents.h"

#include "process_testing.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<size_t> allocated = 0;
}

void *operator new(size_t size) {
    allocated += size;
    if (void *const memory = std::malloc(size != 0 ? size : 1))
        return memory;
    throw std::bad_alloc();
}
void *operator new(size_t size, const std::nothrow_t &) noexcept {
    allocated += size;
    return std::malloc(size != 0 ? size : 1);
}
// What GCC sees of the two, once inlined, is malloc's memory and delete's free.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t /*size*/) noexcept { std::free(memory); }

namespace dwunw::core {
namespace {

using namespace process; // a core is a process that has ended

using testing::Child;

// Each mapping of a deleted file wanted all of the file's: 16,000 took 34 s and 4 GB, with the process stopped.
TEST(CoreContents, ADeletedFileOfManyMappingsIsTakenOnce) {
    const testing::TemporaryFolder folder;
    const auto cost_of = [&](uint64_t count) -> size_t {
        const std::string path = folder / "deleted.so";
        std::filesystem::copy_file(PLUGIN_A, path);
        const Child child([&](const Child::Line &line) {
            const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
            ::unlink(path.c_str());
            // All of its first page, which the kernel cannot join.
            for (uint64_t i = 0; i < count; ++i)
                if (::mmap(nullptr, testing::page_size(), PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED)
                    ::_exit(1);
            line.say();
            line.hear();
        });
        child.hear();
        ModuleStore store;
        const auto process = testing::take(Process::open(store, child.pid(), std::nullopt));
        const auto stopped = testing::take(process->stop());
        const Pin snapshot(*process);
        const size_t before = allocated;
        const auto pieces = choose_contents(*process, *snapshot, {}, 0);
        const size_t cost = allocated - before;
        EXPECT_EQ(
            std::ranges::count_if(pieces, [](const CorePiece &piece) { return piece.held && piece.mapping->deleted; }),
            static_cast<ptrdiff_t>(count));
        return cost;
    };
    const size_t few = cost_of(500);
    EXPECT_LT(cost_of(2000), 5 * few);
}

} // namespace
} // namespace dwunw::core
