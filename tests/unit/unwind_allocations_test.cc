// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A repeated walk allocates nothing, also with the interpreter. Counts the allocations of the whole program.
#include "support/fake_space.h"
#include "support/watched_source.h"
#include "unwind/walk.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<size_t> allocations = 0;
}

void *operator new(size_t size) {
    ++allocations;
    if (void *const memory = std::malloc(size != 0 ? size : 1))
        return memory;
    throw std::bad_alloc();
}
// What GCC sees of the two, once inlined, is malloc's memory and delete's free.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t /*size*/) noexcept { std::free(memory); }

namespace dwunw::unwind {
namespace {

using namespace dwarf; // NOLINT(google-build-using-namespace): opcodes
using namespace testing;

constexpr uint64_t kModule = 0x10000;
constexpr uint64_t kStack = 0x7000;

// leaf, whose CFA is an expression of rbx and whose program remembers three states; root
FrameSection frames() {
    FrameSection section;
    const size_t cie = section.cie();
    Bytes program;
    for (int depth = 0; depth < 3; ++depth)
        program.advance(1).u8(DW_CFA_remember_state).def_cfa_offset(16 + 8 * static_cast<uint64_t>(depth));
    program.u8(DW_CFA_restore_state)
        .u8(DW_CFA_restore_state)
        .u8(DW_CFA_restore_state)
        .add({DW_CFA_def_cfa_expression, 2, testing::breg(RBX), 16});
    section.fde(cie, 0x1000, 0x100, program);
    section.fde(cie, 0x1200, 0x100, Bytes({DW_CFA_undefined, RIP}));
    section.fde(cie, 0x1300, 4);
    section.fde(cie, 0x1400, 0x100, Bytes().def_cfa(RAX, 8));
    return section;
}

class Allocations : public ::testing::Test {
  protected:
    Allocations() { stack_.set(kStack + 0x48, kModule + 0x1220); }

    // In the third walk; the first meets everything, and the second remembers it.
    size_t in_third_walk() {
        const Registers regs = registers({{RIP, kModule + 0x1080}, {RSP, kStack + 8}, {RBX, kStack + 0x40}});
        const StackMemory memory = stack_.memory();
        size_t before = 0;
        for (int i = 0; i < 3; ++i) {
            before = allocations;
            const WalkResult result = walk({space_, x86_64(), regs, memory, {}, frames_, false});
            EXPECT_EQ(result.status, DWUNW_OK);
            EXPECT_EQ(result.written, 2u);
            EXPECT_TRUE(result.used_interpreter);
        }
        return allocations - before;
    }

    FakeSpace space_;
    FakeStack stack_{kStack, 64};
    std::array<dwunw_frame, 8> frames_{};
};

TEST_F(Allocations, TheInterpreterAllocatesNothing) {
    space_.add_module(kModule, 0x3000, frames());
    space_.rules = std::make_unique<RuleCache>();
    space_.compile();
    EXPECT_EQ(in_third_walk(), 0u);
}

// A CFA from a register that no rule mentions, as OpenSSL has it.
TEST_F(Allocations, AnUnmentionedRegisterAllocatesNothing) {
    space_.add_module(kModule, 0x3000, frames());
    space_.rules = std::make_unique<RuleCache>();
    space_.compile();
    space_.set_code(kModule + 0x1300, {0x90, 0x90, 0x90, 0xc3});
    space_.set_code(kModule + 0x1420, {0xe8, 0xdb, 0xfe, 0xff, 0xff}); // call 0x1300
    space_.set_code(kModule + 0x1220 - 2, {0xff, 0xd0});
    stack_.set(kStack + 8, kModule + 0x1425);
    const Registers regs = registers({{RIP, kModule + 0x1300}, {RSP, kStack + 8}, {RAX, kStack + 0x48}});
    const StackMemory memory = stack_.memory();
    size_t before = 0;
    for (int i = 0; i < 3; ++i) {
        before = allocations;
        const WalkResult result = walk({space_, x86_64(), regs, memory, {}, frames_, false});
        EXPECT_EQ(result.status, DWUNW_OK);
        EXPECT_EQ(result.unmentioned_frames, 1u);
        EXPECT_FALSE(result.used_interpreter);
    }
    EXPECT_EQ(allocations - before, 0u);
}

// With the table, the interpreter's FDEs are read again, once.
TEST_F(Allocations, TheInterpreterOfAFileInPiecesAllocatesNothing) {
    const FrameSection section = frames();
    auto source = std::make_shared<WatchedSource>(section.data());
    CfiInput input;
    input.eh_frame.emplace(source, FileOffset(0), section.data().size(), LinkAddr(0x100000));
    input.machine = EM_X86_64;
    space_.add_module(kModule, 0x3000, std::move(input));
    space_.rules = std::make_unique<RuleCache>();
    space_.compile();
    EXPECT_EQ(in_third_walk(), 0u);
    const uint64_t reads = source->reads;
    EXPECT_EQ(in_third_walk(), 0u);
    EXPECT_EQ(source->reads, reads);
}

} // namespace
} // namespace dwunw::unwind
