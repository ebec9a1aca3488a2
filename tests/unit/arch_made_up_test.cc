// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The core, built for an architecture that does not exist (tests/support/arch_made_up): 33 registers, return addresses
// in r30 and signed, addresses of 48 bits. Rows, tables, walks, the cache and core notes, where x86-64 would give
// another answer.
#include "arch/kernel_registers.h"
#include "core/layout.h"
#include "dwarf/cfi_program.h"
#include "support/fake_space.h"
#include "unwind/rule_cache.h"
#include "unwind/walk.h"

#include <gtest/gtest.h>

#include <numeric>

namespace dwunw {
namespace {

using namespace arch::made_up;
using namespace dwarf;
using testing::Bytes;
using testing::FakeSpace;
using testing::FakeStack;
using testing::FakeTables;
using testing::FrameSection;
using unwind::PackedRule;
using unwind::Registers;
using unwind::RuleCache;

static_assert(kTrackedRegisters == 33);

// CFA = SP; the return address is in r30.
Bytes entry_rules() { return Bytes().def_cfa(kSp, 0); }

TEST(MadeUpArch, ACfiProgramKeeps33Registers) {
    FrameSection bytes;
    const size_t cie = bytes.cie(entry_rules(), "zR", DW_EH_PE_absptr, kLink);
    const size_t fde = bytes.fde(cie, 0x1000, 0x100,
                                 Bytes({DW_CFA_AARCH64_negate_ra_state})
                                     .advance(4)
                                     .def_cfa_offset(32)
                                     .offset(kFp, 4)
                                     .offset(kLink, 3)
                                     .offset(kR19, 2)
                                     .offset(kPc, 1)
                                     .offset(kRegisterCount, 1)
                                     .add({DW_CFA_register, kR28, kRegisterCount})
                                     .advance(4)
                                     .def_cfa(kSp, 0)
                                     .add({DW_CFA_restore | int{kFp}, DW_CFA_restore | int{kLink}}));
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(0x200000), LinkAddr(), LinkAddr());
    const auto found = section.fde_at(fde);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->cie.return_address_register, kLink);
    const auto entry = row_at(*found, LinkAddr(0x1000));
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->cfa, (CfaRule{CfaRule::Kind::kRegister, kSp, 0, 0}));
    EXPECT_EQ(entry->registers[kLink].kind, RuleKind::kUnspecified);
    const auto body = row_at(*found, LinkAddr(0x1004));
    ASSERT_TRUE(body);
    EXPECT_EQ(body->cfa.value, 32);
    EXPECT_EQ(body->registers[kFp], (RegisterRule{RuleKind::kOffset, 0, 0, -32}));
    EXPECT_EQ(body->registers[kLink], (RegisterRule{RuleKind::kOffset, 0, 0, -24}));
    EXPECT_EQ(body->registers[kR19], (RegisterRule{RuleKind::kOffset, 0, 0, -16}));
    EXPECT_EQ(body->registers[kPc], (RegisterRule{RuleKind::kOffset, 0, 0, -8}));
    EXPECT_EQ(body->registers[kR28].kind, RuleKind::kUndefined); // saved in a register that is not kept
    const auto end = row_at(*found, LinkAddr(0x1008));
    ASSERT_TRUE(end);
    EXPECT_EQ(end->registers[kLink].kind, RuleKind::kUnspecified);
    EXPECT_EQ(end->registers[kFp].kind, RuleKind::kUnspecified);
}

TEST(MadeUpArch, ACfaInARegisterThatIsNotKeptIsMalformed) {
    FrameSection bytes;
    const size_t cie = bytes.cie(entry_rules(), "zR", DW_EH_PE_absptr, kLink);
    const size_t fde = bytes.fde(cie, 0x1000, 0x100, Bytes().def_cfa(kRegisterCount, 0));
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(0x200000), LinkAddr(), LinkAddr());
    EXPECT_EQ(row_at(*section.fde_at(fde), LinkAddr(0x1000)).error().status, DWUNW_ERR_CFI_MALFORMED);
}

constexpr uint64_t kModule = 0x800000000000; // the 48th bit
constexpr uint64_t kStack = 0x7ff000;
constexpr uint64_t kTop = kStack + 128;
constexpr uint64_t kSignature = uint64_t{0xabcd} << kAddressBits;

// Functions of the module, by link address.
enum Function : uint64_t {
    kLeaf = 0x1000,    // CFA = SP; the return address in r30
    kMiddle = 0x1100,  // CFA = SP + 32, FP and r30 at its lower end
    kByFp = 0x1200,    // CFA = FP + 48, FP and r30 at its lower end
    kByR19 = 0x1300,   // CFA = r19, r30 at CFA − 8: the interpreter's
    kRoot = 0x1400,    // the return address is undefined
    kNoRules = 0x1500, // no FDE covers it
};

class MadeUpWalk : public ::testing::Test {
  protected:
    MadeUpWalk() {
        FrameSection section;
        const size_t cie = section.cie(entry_rules(), "zR", DW_EH_PE_absptr, kLink);
        section.fde(cie, kLeaf, 0x100);
        section.fde(cie, kMiddle, 0x100,
                    Bytes({DW_CFA_AARCH64_negate_ra_state}).def_cfa_offset(32).offset(kFp, 4).offset(kLink, 3));
        section.fde(cie, kByFp, 0x100, Bytes().def_cfa(kFp, 48).offset(kFp, 6).offset(kLink, 5));
        section.fde(cie, kByR19, 0x100, Bytes().def_cfa(kR19, 0).offset(kLink, 1));
        section.fde(cie, kRoot, 0x100, Bytes({DW_CFA_undefined, kLink}));
        unwind::CfiInput input;
        input.eh_frame = SectionBytes{section.data(), LinkAddr(0x100000)};
        input.machine = kMachine;
        space_.add_module(kModule, 0x10000, std::move(input));
    }
    static uint64_t at(uint64_t function, uint64_t offset = 0) { return kModule + function + offset; }

    void set(uint8_t reg, uint64_t value) { registers_.set(reg, value); }

    // Cold, by single FDEs; by the table; warm.
    void expect(dwunw_status status, const std::vector<uint64_t> &pcs) {
        set(kSp, kTop);
        const unwind::StackMemory memory = stack_.memory();
        for (const char *how : {"cold", "warm", "again", "compiled", "compiled and warm"}) {
            SCOPED_TRACE(how);
            if (how == std::string_view("compiled")) {
                space_.compile();
                space_.rules.reset();
            } else if (how != std::string_view("cold") && space_.rules == nullptr) {
                space_.rules = std::make_unique<RuleCache>();
            }
            std::vector<dwunw_frame> frames(16);
            result_ = unwind::walk({space_, kArch, registers_, memory, {}, frames, false});
            EXPECT_EQ(result_.status, status);
            frames.resize(result_.written);
            std::vector<uint64_t> found;
            for (const dwunw_frame &frame : frames)
                found.push_back(frame.pc);
            EXPECT_EQ(found, pcs);
            frames_ = frames;
        }
    }

    FakeSpace space_;
    FakeStack stack_{kStack, 64};
    Registers registers_;
    unwind::WalkResult result_;
    std::vector<dwunw_frame> frames_;
};

TEST_F(MadeUpWalk, FromALeafByFrameRecordsToTheRoot) {
    set(kPc, at(kLeaf));
    set(kLink, at(kMiddle, 0x20) | kSignature);
    stack_.set(kTop, kTop + 40).set(kTop + 8, at(kByFp, 0x30) | kSignature); // FP and r30, in middle's frame
    stack_.set(kTop + 40, 0).set(kTop + 48, at(kRoot, 0x40));
    expect(DWUNW_OK, {at(kLeaf), at(kMiddle, 0x20), at(kByFp, 0x30), at(kRoot, 0x40)});
    EXPECT_FALSE(result_.used_interpreter);
    EXPECT_EQ(frames_[1].sp, kTop); // the leaf has no frame
    EXPECT_EQ(frames_[2].sp, kTop + 32);
    EXPECT_EQ(frames_[3].sp, kTop + 88);
}

// Rules that keep FP and r30 together are the cache's; the process is not asked about frames behind such a rule.
TEST_F(MadeUpWalk, FrameRecordsAreWalkedWarm) {
    set(kPc, at(kMiddle, 0x10));
    stack_.set(kTop, kTop + 40).set(kTop + 8, at(kByFp, 0x30) | kSignature);
    stack_.set(kTop + 40, 0).set(kTop + 48, at(kRoot, 0x40));
    expect(DWUNW_OK, {at(kMiddle, 0x10), at(kByFp, 0x30), at(kRoot, 0x40)});
    space_.finds = 0;
    std::array<dwunw_frame, 8> frames;
    const unwind::StackMemory memory = stack_.memory();
    EXPECT_EQ(unwind::walk({space_, kArch, registers_, memory, {}, frames, false}).written, 3u);
    EXPECT_EQ(space_.finds, 0u);
}

TEST_F(MadeUpWalk, TheInterpreterTakesTheReturnAddressOutOfItsRegisterToo) {
    set(kPc, at(kLeaf));
    set(kLink, at(kByR19, 0x20) | kSignature);
    set(kR19, kTop + 64);
    stack_.set(kTop + 56, at(kRoot, 1));
    expect(DWUNW_OK, {at(kLeaf), at(kByR19, 0x20), at(kRoot, 1)});
    EXPECT_TRUE(result_.used_interpreter);
    EXPECT_EQ(frames_[2].sp, kTop + 64);
}

// r30 is the leaf's own return address, not that of a function which has called.
TEST_F(MadeUpWalk, AnOuterFramesReturnAddressIsNotInTheRegister) {
    set(kPc, at(kLeaf));
    set(kLink, at(kLeaf, 0x20));
    expect(DWUNW_ERR_NO_PROGRESS, {at(kLeaf), at(kLeaf, 0x20)});
    set(kLink, at(kByR19, 0x20));
    set(kR19, kTop + 64);
    stack_.set(kTop + 56, at(kLeaf, 0x20));
    expect(DWUNW_ERR_NO_PROGRESS, {at(kLeaf), at(kByR19, 0x20), at(kLeaf, 0x20)});
}

TEST_F(MadeUpWalk, AnUnknownReturnAddressRegister) {
    set(kPc, at(kLeaf));
    expect(DWUNW_ERR_NO_PROGRESS, {at(kLeaf)});
}

TEST_F(MadeUpWalk, TheSignalHandlersWalkGivesTheSame) {
    set(kPc, at(kLeaf));
    set(kSp, kTop);
    set(kLink, at(kMiddle, 0x20) | kSignature);
    stack_.set(kTop, 0).set(kTop + 8, at(kRoot, 0x40) | kSignature);
    space_.compile();
    const FakeTables tables(space_);
    std::array<dwunw_frame, 8> frames;
    const unwind::StackMemory memory = stack_.memory();
    const auto result = unwind::walk_by_tables(
        {.space = tables, .arch = kArch, .registers = registers_, .memory = memory, .frames = frames});
    EXPECT_EQ(result.status, DWUNW_OK);
    ASSERT_EQ(result.written, 3u);
    EXPECT_EQ(frames[1].pc, at(kMiddle, 0x20));
    EXPECT_EQ(frames[2].pc, at(kRoot, 0x40));
}

TEST_F(MadeUpWalk, CodeThatNobodyKnowsProvesNothing) {
    set(kPc, at(kNoRules));
    set(kLink, at(kRoot, 1));
    expect(DWUNW_ERR_NO_CFI, {at(kNoRules)});
}

// The architecture names no code at which a context ends. Code that equals all of those no bytes is not such an end.
TEST_F(MadeUpWalk, NoCodeEndsAContext) {
    set(kPc, at(kLeaf));
    set(kLink, at(kMiddle)); // behind a trap: no call led here
    stack_.set(kTop, 0).set(kTop + 8, at(kRoot, 1));
    expect(DWUNW_OK, {at(kLeaf), at(kMiddle), at(kRoot, 1)});
}

TEST(MadeUpArch, ThePackedRuleHoldsEveryRegister) {
    for (uint8_t reg = 0; reg < kFp; ++reg) {
        unwind::Rule rule;
        rule.cfa_reg = reg;
        rule.cfa_offset = 8 * ((1 << 13) - 1);
        rule.fp_kind = rule.ra_kind = unwind::ValueKind::kAtCfa;
        rule.fp_offset = -32;
        rule.ra_offset = -24;
        const auto packed = PackedRule::pack(rule, kArch, 7);
        ASSERT_TRUE(packed);
        EXPECT_TRUE(packed->cfa_from_other());
        EXPECT_EQ(packed->cfa_register(), reg);
        EXPECT_EQ(packed->offset_from_other(), static_cast<uint64_t>(rule.cfa_offset));
        EXPECT_EQ(packed->fp_distance(), 32u);
        EXPECT_EQ(packed->return_distance(), 24u);
        EXPECT_EQ(packed->place(), 7u);
        rule.cfa_offset += 8;
        EXPECT_FALSE(PackedRule::pack(rule, kArch, 7));
        rule.cfa_offset -= 8;
        rule.ra_offset = -8; // not beside FP
        EXPECT_FALSE(PackedRule::pack(rule, kArch, 7));
        rule.fp_kind = unwind::ValueKind::kSame;
        EXPECT_FALSE(PackedRule::pack(rule, kArch, 7));
    }
}

TEST(MadeUpArch, TheCacheHoldsAddressesOf48Bits) {
    const auto rules = std::make_unique<RuleCache>();
    constexpr uint64_t kGeneration = (uint64_t{1} << RuleCache::kGenerationBits) - 1;
    const auto packed = PackedRule::without_cfi(3, true);
    for (const uint64_t address : {uint64_t{0x1000}, uint64_t{0xffffffffffff}, uint64_t{0x800000000000}}) {
        const CodeAddr pc = CodeAddr::return_address(RunAddr(address));
        EXPECT_FALSE(rules->find(pc, kGeneration));
        rules->insert(pc, kGeneration, *packed);
        ASSERT_TRUE(rules->find(pc, kGeneration));
        EXPECT_EQ(rules->find(pc, kGeneration)->place(), 3u);
        EXPECT_FALSE(rules->find(pc, kGeneration - 1));
        EXPECT_FALSE(rules->find(CodeAddr::instruction(RunAddr(address)), kGeneration));
        EXPECT_FALSE(rules->find(CodeAddr::return_address(RunAddr(address + (uint64_t{1} << 48))), kGeneration));
        rules->remember_call(RunAddr(address), kGeneration, true);
        EXPECT_EQ(rules->follows_call(RunAddr(address), kGeneration), true);
        for (uint8_t reg = 0; reg <= kSp; ++reg) {
            rules->remember_unwritten(RunAddr(address), RunAddr(address ^ 0x20), reg, kGeneration);
            EXPECT_TRUE(rules->is_unwritten(RunAddr(address), RunAddr(address ^ 0x20), reg, kGeneration));
            EXPECT_FALSE(rules->is_unwritten(RunAddr(address), RunAddr(address ^ 0x20), reg ^ 1, kGeneration));
            EXPECT_FALSE(rules->is_unwritten(RunAddr(address), RunAddr(address ^ 0x20), reg, kGeneration - 1));
        }
    }
}

TEST(MadeUpArch, TheKernelsRegisters) {
    static_assert(sizeof(core::CorePrStatus) == 392); // struct elf_prstatus of AArch64, which has as many
    arch::CoreRegisters words;
    std::iota(words.begin(), words.end(), 100);
    const dwunw_regset regs = arch::regset_of(words);
    EXPECT_EQ(regs.arch, kId);
    EXPECT_EQ(regs.valid, (uint64_t{1} << 33) - 1);
    EXPECT_EQ(regs.regs[kLink], 130u);
    EXPECT_EQ(regs.regs[kPc], 132u);
    EXPECT_EQ(regs.regs[33], 0u); // the flags
}

TEST(MadeUpArch, AnotherArchitectureIsNotSupported) {
    EXPECT_EQ(arch::find_by_machine(kMachine), &kArch);
    EXPECT_EQ(arch::find_by_id(kId), &kArch);
    EXPECT_EQ(arch::find_by_machine(EM_X86_64), nullptr);
    EXPECT_EQ(arch::find_by_id(DWUNW_ARCH_X86_64), nullptr);
}

} // namespace
} // namespace dwunw
