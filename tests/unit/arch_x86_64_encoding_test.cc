// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests the parts of instructions by hand, and compares their lengths with Zydis: every opcode of every map, and random
// bytes. The tests of arch_x86_64_instruction and arch_x86_64_sp_instruction do so over the code of whole files.
#include "arch/x86_64/encoding.h"

#include "every_opcode_testing.h"

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <set>
#include <vector>

namespace dwunw::arch::x86_64 {
namespace {

using Bytes = std::vector<uint8_t>;
using Form = Encoding::Form;

// All of `code` is one instruction, and no part of it is one.
Encoding read(const Bytes &code) {
    Encoding whole;
    EXPECT_TRUE(read_encoding(code, whole)) << testing::PrintToString(code);
    EXPECT_EQ(whole.length, code.size());
    for (size_t size = 0; size < code.size(); ++size) {
        Encoding part;
        EXPECT_FALSE(read_encoding(std::span(code).first(size), part)) << size << testing::PrintToString(code);
    }
    return whole;
}
bool is_one(const Bytes &code) {
    Encoding encoding;
    return read_encoding(code, encoding);
}

TEST(Encoding, RegistersHaveTheBitsOfRex) {
    const Encoding mov = read({0x4d, 0x89, 0xec}); // mov %r13, %r12
    EXPECT_TRUE(mov.is(0, 0x89));
    EXPECT_TRUE(mov.rex_w());
    EXPECT_TRUE(mov.rm_is_register());
    EXPECT_EQ(mov.reg, 13);
    EXPECT_EQ(mov.rm, 12);
    EXPECT_EQ(mov.extension(), 5);
    EXPECT_EQ(read({0x41, 0x54}).opcode_reg(), 12); // push %r12
    EXPECT_EQ(read({0x54}).opcode_reg(), 4);
}

TEST(Encoding, MemoryOperandsHaveTheirLength) {
    const Encoding fp = read({0x48, 0x89, 0x6d, 0xf8}); // mov %rbp, -8(%rbp)
    EXPECT_EQ(fp.base, 5);
    EXPECT_FALSE(fp.has_index);
    EXPECT_EQ(fp.displacement, -8);
    const Encoding sp = read({0x48, 0x8b, 0x84, 0x24, 0, 1, 0, 0}); // mov 0x100(%rsp), %rax
    EXPECT_EQ(sp.base, 4);
    EXPECT_FALSE(sp.has_index);
    EXPECT_EQ(sp.displacement, 0x100);
    const Encoding r13 = read({0x49, 0x8b, 0x45, 0x00}); // mov (%r13), %rax
    EXPECT_EQ(r13.base, 13);
    EXPECT_EQ(r13.displacement, 0);
    EXPECT_TRUE(read({0x48, 0x8b, 0x04, 0xd4}).has_index);                             // mov (%rsp,%rdx,8), %rax
    EXPECT_TRUE(read({0x4a, 0x8b, 0x04, 0x24}).has_index);                             // mov (%rsp,%r12), %rax
    EXPECT_EQ(read({0x48, 0x8b, 0x05, 1, 0, 0, 0}).base, Encoding::kNoRegister);       // mov 1(%rip), %rax
    EXPECT_EQ(read({0x48, 0x8b, 0x04, 0x25, 1, 0, 0, 0}).base, Encoding::kNoRegister); // mov 1, %rax
    EXPECT_EQ(read({0x48, 0x8b, 0x04, 0xd5, 1, 0, 0, 0}).displacement, 1);             // mov 1(,%rdx,8), %rax
    EXPECT_TRUE(read({0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}).segment);             // mov %fs:0, %rax
    EXPECT_TRUE(read({0x67, 0x8b, 0x00}).address32);                                   // mov (%eax), %eax
}

TEST(Encoding, ImmediatesHaveTheirLength) {
    EXPECT_EQ(read({0x48, 0x83, 0xec, 0x80}).immediate, -0x80);
    EXPECT_EQ(read({0x48, 0x81, 0xec, 0, 0, 0, 0x80}).immediate, INT32_MIN);
    EXPECT_EQ(read({0x66, 0x81, 0xc1, 0, 0x80}).immediate, INT16_MIN);  // add $-0x8000, %cx
    EXPECT_EQ(read({0x66, 0x48, 0x81, 0xc1, 1, 0, 0, 0}).immediate, 1); // add $1, %rcx
    EXPECT_EQ(read({0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}).immediate, 0x0807060504030201);
    EXPECT_EQ(read({0xb8, 1, 2, 3, 4}).immediate, 0x04030201);
    EXPECT_EQ(read({0x66, 0xb8, 1, 2}).immediate, 0x0201);
    EXPECT_EQ(read({0xe8, 0xfe, 0xff, 0xff, 0xff}).immediate, -2);
    read({0xc8, 0x10, 0, 0});             // enter
    read({0xa1, 1, 2, 3, 4, 5, 6, 7, 8}); // movabs
    read({0x67, 0xa1, 1, 2, 3, 4});       //
    read({0xf6, 0xc1, 1});                // test $1, %cl
    read({0xf6, 0xd1});                   // not %cl
    read({0xf7, 0xc1, 1, 0, 0, 0});       // test $1, %ecx
    read({0x66, 0x0f, 0x78, 0xc0, 1, 2}); // extrq
    read({0x0f, 0x0f, 0xc1, 0x9e});       // pfadd
}

TEST(Encoding, VectorPrefixesStoreTheirBitsInverted) {
    const Encoding blsr = read({0xc4, 0xe2, 0x50, 0xf3, 0xc8}); // blsr %eax, %ebp
    EXPECT_EQ(blsr.form, Form::kVex);
    EXPECT_EQ(blsr.map, 2);
    EXPECT_EQ(blsr.vvvv, 5);
    EXPECT_EQ(blsr.rm, 0);
    EXPECT_EQ(blsr.repeat, 0);
    const Encoding cvt = read({0xc4, 0x41, 0xfb, 0x2d, 0xe5}); // vcvtsd2si %xmm13, %r12
    EXPECT_EQ(cvt.map, 1);
    EXPECT_EQ(cvt.reg, 12);
    EXPECT_EQ(cvt.rm, 13);
    EXPECT_TRUE(cvt.rex_w());
    EXPECT_EQ(cvt.repeat, 0xf2);
    EXPECT_EQ(read({0xc5, 0x7b, 0x2d, 0xe5}).reg, 12); // the short form
    EXPECT_EQ(read({0x62, 0xf1, 0x7c, 0x48, 0x10, 0x46, 1}).form, Form::kEvex);
    EXPECT_FALSE(read({0x62, 0xf1, 0x7c, 0x48, 0x10, 0x46, 1}).apx);
    EXPECT_TRUE(read({0x62, 0xf9, 0x7c, 0x48, 0x10, 0x46, 1}).apx);
    EXPECT_EQ(read({0x8f, 0xe8, 0x78, 0xc2, 0xc1, 7}).form, Form::kXop); // vprotd
    EXPECT_EQ(read({0x8f, 0xc0}).form, Form::kLegacy);                   // pop %rax
}

// So do processors and Zydis. Once, `48 66` counted as an instruction, and the `push` behind as one of 8 bytes.
TEST(Encoding, RexBeforeAnotherPrefixHasNoEffect) {
    const Encoding push = read({0x48, 0x66, 0x54}); // push %sp
    EXPECT_EQ(push.rex, 0);
    EXPECT_TRUE(push.operand16);
    EXPECT_TRUE(push.idle_rex);
    EXPECT_EQ(read({0x41, 0x40, 0x54}).opcode_reg(), 4);
    EXPECT_FALSE(read({0x66, 0x41, 0x54}).idle_rex);
}

TEST(Encoding, UndefinedOpcodesAreNoInstruction) {
    for (const Bytes &code : std::initializer_list<Bytes>{
             {0x06, 0, 0},                         // push %es
             {0x0f, 0x04, 0},                      //
             {0xd6, 0},                            //
             {0x8d, 0xe5},                         // lea of a register
             {0x8f, 0xc8},                         // neither pop nor XOP
             {0xfe, 0xd0},                         // inc and dec only
             {0xff, 0xf8},                         //
             {0x0f, 0xba, 0xc0, 1},                // bt is /4
             {0xc4, 0xe2, 0x50, 0xf3, 0xc0},       // blsr is /1
             {0xc5, 0xf8, 0x84, 0xc0, 0, 0, 0, 0}, // VEX and EVEX have no branches
             {0x62, 0xf1, 0x7c, 0x48, 0x77, 0xc0}, // vzeroupper is VEX only
             {0xc4, 0xe4, 0x78, 0x10, 0xc0},       // map 4
             {0x66, 0xc5, 0xf8, 0x77},             // prefixes that VEX has within it
             {0xf3, 0xc5, 0xf8, 0x77},             //
             {0x48, 0xc5, 0xf8, 0x77},             //
             {0x8f, 0xeb, 0x78, 0, 0xc0},          // XOP map 11
         })
        EXPECT_FALSE(is_one(code)) << testing::PrintToString(code);
    EXPECT_FALSE(is_one(Bytes(16, 0x66)));
    EXPECT_TRUE(is_one({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}));
    EXPECT_FALSE(
        is_one({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}));
}

class BesideZydis : public testing::Test {
  protected:
    BesideZydis() { ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); }

    void compare(std::span<const uint8_t> code) {
        ZydisDecodedInstruction theirs;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder_, nullptr, code.data(), code.size(), &theirs)))
            return;
        ++known_;
        Encoding ours;
        if (!read_encoding(code, ours))
            unknown_.insert(theirs.mnemonic);
        else
            ASSERT_EQ(ours.length, theirs.length) << testing::PrintToString(Bytes(code.begin(), code.end()));
    }

    ZydisDecoder decoder_;
    size_t known_ = 0;
    std::set<ZydisMnemonic> unknown_;
};

TEST_F(BesideZydis, EveryOpcodeHasItsLength) {
    EveryOpcode::for_each([&](std::span<const uint8_t> code) {
        if (!HasFatalFailure())
            compare(code);
    });
    EXPECT_GT(known_, 1'500'000u);
    // Branches by mask registers, which only the Knights Corner processors had.
    EXPECT_EQ(unknown_, (std::set<ZydisMnemonic>{ZYDIS_MNEMONIC_JKNZD, ZYDIS_MNEMONIC_JKZD}));
}

TEST_F(BesideZydis, RandomBytesHaveTheirLength) {
    std::mt19937_64 random(1);
    for (int round = 0; round < 500'000 && !HasFatalFailure(); ++round) {
        std::array<uint8_t, 16> code;
        for (uint8_t &byte : code)
            byte = static_cast<uint8_t>(random());
        compare(code);
    }
    EXPECT_GT(known_, 300'000u);
}

} // namespace
} // namespace dwunw::arch::x86_64
