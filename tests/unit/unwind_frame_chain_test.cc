// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Chains as the kernel's frame-pointer walk reports them, over hand-written modules and code.
#include "unwind/frame_chain.h"

#include "support/fake_space.h"

namespace dwunw::unwind {
namespace {

using namespace dwarf;
using testing::Bytes;
using testing::FakeSpace;
using testing::FrameSection;
using testing::x86_64;
using enum testing::Reg;

constexpr uint64_t kModule = 0x400000;
constexpr uint64_t kJit = 0x10000;
constexpr uint64_t kUprobes = 0x7fffffffe000;
constexpr uint64_t kBroken = 0x20000;

// Functions of the module, by link address. Each calls at 0x20, so its return address is 0x20 behind its start.
enum Function : uint64_t {
    kData = 0x0800,     // none, and its code keeps data in rbp
    kByRbp = 0x1000,    // CFA = rbp+16, rbp saved at CFA−16
    kByRsp = 0x1100,    // CFA = rsp+8: it has no frame of its own
    kKeepsRbp = 0x1200, // CFA = rbp+16, and rbp is not saved where the walk looks
    kNoCfi = 0x1300,    // none, and its code sets a frame up
    kBad = 0x1500,      // rules that cannot be executed
};

class FrameChainTest : public ::testing::Test {
  protected:
    FrameChainTest() {
        FrameSection section;
        const size_t cie = section.cie();
        section.fde(cie, kByRbp, 0x100, Bytes().def_cfa(RBP, 16).offset(RBP, 2));
        section.fde(cie, kByRsp, 0x100);
        section.fde(cie, kKeepsRbp, 0x100, Bytes().def_cfa(RBP, 16).offset(RBP, 3));
        section.fde(cie, kBad, 0x100, Bytes({0x3f}));
        space_.add_module(kModule, 0x3000, section);
        space_.add_other(CodeKind::kAnonymous, kJit, 0x1000);
        space_.add_other(CodeKind::kUprobeTrampoline, kUprobes, 0x1000);
        space_.add_other(CodeKind::kUnusableModule, kBroken, 0x1000, DWUNW_ERR_NO_FILE);
        for (const uint64_t function : {kByRbp, kByRsp, kKeepsRbp, kNoCfi, kData, kBad})
            space_.set_code(kModule + function + 0x1b, {0xe8, 0, 0, 0, 0}); // call
        // push %rbp; mov %rsp, %rbp; and nops up to the call
        space_.set_code(kModule + kNoCfi, {0x55, 0x48, 0x89, 0xe5});
        // push %rbp; mov %rdi, %rbp
        space_.set_code(kModule + kData, {0x55, 0x48, 0x89, 0xfd});
        for (const uint64_t function : {kNoCfi, kData})
            for (uint64_t i = 4; i < 0x1b; ++i)
                space_.set_code(kModule + function + i, {0x90});
        space_.set_code(kJit + 0x100, {0x55, 0x48, 0x89, 0xe5, 0xe8, 0, 0, 0, 0});
    }

    static uint64_t in(uint64_t function) { return kModule + function + 0x20; }

    Result<size_t> check(std::vector<uint64_t> addresses) {
        frames_.assign(addresses.size(), {});
        return check_frame_chain(x86_64(), space_, addresses, frames_);
    }
    size_t certain(std::vector<uint64_t> addresses) {
        const auto result = check(std::move(addresses));
        EXPECT_TRUE(result);
        return result ? *result : 0;
    }

    FakeSpace space_;
    std::vector<dwunw_frame> frames_;
};

TEST_F(FrameChainTest, FunctionsWithTheirOwnFramesAreCertain) {
    EXPECT_EQ(certain({in(kByRbp), in(kByRbp), in(kByRbp)}), 3u);
    for (const dwunw_frame &frame : frames_) {
        EXPECT_EQ(frame.pc, in(kByRbp));
        EXPECT_EQ(frame.module_offset, kByRbp + 0x20);
        EXPECT_NE(frame.module, nullptr);
        EXPECT_EQ(frame.flags, 0u);
    }
    EXPECT_EQ(frames_[0].source, uint32_t{DWUNW_SOURCE_REGISTERS});
    EXPECT_EQ(frames_[1].source, uint32_t{DWUNW_SOURCE_FRAME_POINTER});
}

TEST_F(FrameChainTest, WhereCodeHasNoFrameItsCallerIsLeftOut) {
    EXPECT_EQ(certain({in(kByRsp), in(kByRbp)}), 1u);
    EXPECT_EQ(certain({in(kByRbp), in(kByRsp), in(kByRbp), in(kByRbp)}), 2u);
    EXPECT_EQ(certain({in(kKeepsRbp), in(kByRbp)}), 1u);
}

TEST_F(FrameChainTest, WithoutRulesNoStepIsCertain) {
    EXPECT_EQ(certain({in(kNoCfi), in(kByRbp)}), 1u);
    EXPECT_EQ(certain({in(kByRbp), in(kData), in(kByRbp)}), 2u);
    EXPECT_EQ(certain({kJit + 0x109, in(kByRbp)}), 1u);
    EXPECT_EQ(frames_[0].module, nullptr);
}

TEST_F(FrameChainTest, UnreadableRulesMakeNoFrameCertain) { EXPECT_EQ(certain({in(kBad), in(kByRbp)}), 1u); }

TEST_F(FrameChainTest, OneAddressThatIsNotAReturnAddressRefusesTheChain) {
    const struct {
        uint64_t address;
        dwunw_status status;
    } cases[] = {
        {0x4200000000, DWUNW_ERR_NO_MAPPING},        // data that the frame pointer held
        {0, DWUNW_ERR_NO_MAPPING},                   //
        {kModule, DWUNW_ERR_NO_MAPPING},             // what is before it is not mapped
        {in(kByRbp) + 1, DWUNW_ERR_NOT_FOUND},       // code, and no call before it
        {kUprobes + 1, DWUNW_ERR_UPROBE_TRAMPOLINE}, // a pending return
        {kBroken + 0x20, DWUNW_ERR_NOT_FOUND},       // code that cannot be read
        {~uint64_t{0}, DWUNW_ERR_NO_MAPPING},        //
    };
    for (const auto &[address, status] : cases)
        for (const auto &chain : {std::vector<uint64_t>{address, in(kByRbp)}, {in(kByRbp), in(kByRbp), address}}) {
            const auto result = check(chain);
            ASSERT_FALSE(result) << std::hex << address;
            EXPECT_EQ(result.error().status, status) << std::hex << address;
        }
}

} // namespace
} // namespace dwunw::unwind
