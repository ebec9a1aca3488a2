// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/table_pool.h"

#include "bpf/table_encoding.h"
#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <elf.h>

#include <algorithm>

namespace dwunw::bpf {
namespace {

using testing::Bytes;
using testing::FrameSection;

// A module with a function or more, each of two rules.
struct Module {
    explicit Module(int functions = 1, uint8_t cfa_register = testing::RSP)
        : file(nullptr, -1, std::nullopt), cfi(make(functions, cfa_register)) {}

    static std::unique_ptr<unwind::ModuleCfi> make(int functions, uint8_t cfa_register) {
        FrameSection section;
        const size_t cie = section.cie();
        for (int i = 0; i < functions; ++i)
            section.fde(cie, 0x1000 + static_cast<uint64_t>(i) * 0x100, 0x40,
                        Bytes().advance(4).def_cfa(cfa_register, 16 + static_cast<uint64_t>(i) * 8));
        auto cfi = unwind::ModuleCfi::build(
            {.eh_frame = SectionBytes{section.data(), LinkAddr(0x100000)}, .machine = EM_X86_64});
        EXPECT_TRUE(cfi);
        return std::move(*cfi);
    }
    std::vector<uint64_t> cells() const { return table_cells(**cfi->compile()); }

    process::Module file;
    std::unique_ptr<unwind::ModuleCfi> cfi;
};

struct Pool {
    explicit Pool(size_t size) : cells(size), pool(cells, [this] { return ++waits, can_wait; }) {}

    std::optional<uint32_t> acquire(const Module &module) { return pool.acquire(module.file, **module.cfi->compile()); }
    void release(const Module &module) { pool.release(module.file); }
    bool holds(const Module &module, uint32_t first) const {
        const auto wanted = module.cells();
        return std::equal(wanted.begin(), wanted.end(), cells.begin() + first);
    }

    int waits = 0;
    bool can_wait = true;
    std::vector<uint64_t> cells;
    TablePool pool;
};

TEST(TablePool, AModuleIsThereOnce) {
    const Module a;
    const Module b(3);
    ASSERT_NE(a.cells(), b.cells());
    Pool pool(1000);
    const auto first_a = pool.acquire(a);
    const auto first_b = pool.acquire(b);
    ASSERT_TRUE(first_a && first_b);
    EXPECT_TRUE(pool.holds(a, *first_a));
    EXPECT_TRUE(pool.holds(b, *first_b));
    EXPECT_EQ(pool.acquire(a), first_a) << "another process of it";
    EXPECT_EQ(pool.pool.modules(), 2u);
    EXPECT_EQ(pool.pool.bytes(), 8000u);
    EXPECT_EQ(pool.pool.bytes_used(), 8 * (a.cells().size() + b.cells().size()));
    EXPECT_EQ(pool.pool.without_room(), 0u);
}

TEST(TablePool, AnUnusedTableStaysUntilItsRoomIsNeeded) {
    const Module a;
    const Module b;
    const Module c;
    const size_t size = a.cells().size();
    Pool pool(2 * size);
    const auto first_a = pool.acquire(a);
    const auto first_b = pool.acquire(b);
    pool.release(a);
    pool.release(b);
    EXPECT_EQ(pool.pool.modules(), 2u);
    EXPECT_EQ(pool.acquire(a), first_a);
    EXPECT_EQ(pool.waits, 0);
    EXPECT_EQ(pool.acquire(c), first_b) << "a is in use again";
    EXPECT_EQ(pool.waits, 1) << "a walk that began before may read b's cells";
    EXPECT_EQ(pool.pool.modules(), 2u);
    EXPECT_EQ(pool.pool.bytes_used(), pool.pool.bytes());
}

TEST(TablePool, TheOneReleasedLongestAgoGoesFirst) {
    const Module a;
    const Module b;
    const Module c;
    const Module d;
    Pool pool(3 * a.cells().size());
    pool.acquire(a);
    const auto first_b = pool.acquire(b);
    const auto first_c = pool.acquire(c);
    pool.release(b);
    pool.release(c);
    pool.release(a);
    EXPECT_EQ(pool.acquire(d), first_b);
    EXPECT_EQ(pool.acquire(c), first_c) << "still there";
}

TEST(TablePool, AUsedTableIsNeverOverwritten) {
    const Module a;
    const Module b(40);
    Pool pool(b.cells().size());
    const auto first_a = pool.acquire(a);
    pool.acquire(a);
    pool.release(a);
    EXPECT_EQ(pool.acquire(b), std::nullopt) << "one process still uses a";
    EXPECT_EQ(pool.pool.without_room(), 1u);
    EXPECT_TRUE(pool.holds(a, *first_a));
    pool.release(a);
    EXPECT_EQ(pool.acquire(b), 0u);
    EXPECT_EQ(pool.pool.modules(), 1u);
    EXPECT_TRUE(pool.holds(b, 0));
    EXPECT_EQ(pool.acquire(a), std::nullopt);
    EXPECT_EQ(pool.pool.without_room(), 2u);
}

TEST(TablePool, NothingIsOverwrittenIfTheWaitForReadersFails) {
    const Module a;
    const Module b(3);
    Pool pool(b.cells().size());
    pool.can_wait = false;
    const auto first_a = pool.acquire(a);
    ASSERT_TRUE(first_a);
    pool.release(a);
    EXPECT_EQ(pool.acquire(b), std::nullopt);
    EXPECT_TRUE(pool.holds(a, *first_a));
}

TEST(TablePool, AReleaseTooManyChangesNothing) {
    const Module a;
    const Module b;
    const Module c;
    Pool pool(2 * a.cells().size());
    pool.release(a);
    const auto first_a = pool.acquire(a);
    pool.release(a);
    pool.release(a);
    EXPECT_EQ(pool.acquire(a), first_a);
    ASSERT_TRUE(pool.acquire(b));
    EXPECT_EQ(pool.acquire(c), std::nullopt);
    EXPECT_TRUE(pool.holds(a, *first_a));
}

TEST(TablePool, CountsTheRulesThatItsTablesLeaveToUserSpace) {
    const Module plain;
    const Module realigned(2, testing::R10);
    Pool pool(1000);
    pool.acquire(plain);
    EXPECT_EQ(pool.pool.rules_left_to_user(), 0u);
    pool.acquire(realigned);
    EXPECT_EQ(pool.pool.rules_left_to_user(), 2u);
}

} // namespace
} // namespace dwunw::bpf
