// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests each form by hand, and compares the code of whole files with Zydis.
#include "arch/x86_64/arch.h"

#include "every_opcode_testing.h"

#include <Zydis/Zydis.h>

#include <gtest/gtest.h>

#include <elf.h>

#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace dwunw::arch::x86_64 {
namespace {

using Flow = Instruction::Flow;
using Effect = Instruction::Effect;
using Bytes = std::vector<uint8_t>;

Instruction decoded(const Bytes &code) {
    const auto instruction = decode(code);
    EXPECT_TRUE(instruction);
    EXPECT_EQ(instruction ? instruction->length : 0u, code.size());
    return instruction.value_or(Instruction{});
}

struct Form {
    const char *text;
    Bytes code;
    Effect effect;
    bool from_fp = false;
    int32_t offset = 0;
    bool of_fp = false;
};

TEST(Instruction, FrameSetupAndTeardownHaveExactEffects) {
    const std::vector<Form> forms = {
        {"push %rbp", {0x55}, Effect::kPush, false, 0, true},
        {"push %r13", {0x41, 0x55}, Effect::kPush},
        {"push %rbx", {0x53}, Effect::kPush},
        {"push $1", {0x6a, 1}, Effect::kPush},
        {"push $0x12345678", {0x68, 0x78, 0x56, 0x34, 0x12}, Effect::kPush},
        {"push -8(%r10)", {0x41, 0xff, 0x72, 0xf8}, Effect::kPush},
        {"pushw %ax", {0x66, 0x50}, Effect::kLoseSp},
        {"pop %rbp", {0x5d}, Effect::kPop, false, 0, true},
        {"pop %r13", {0x41, 0x5d}, Effect::kPop},
        {"pop %rsp", {0x5c}, Effect::kLose},
        {"leave", {0xc9}, Effect::kLeave},
        {"mov %rsp, %rbp", {0x48, 0x89, 0xe5}, Effect::kSetFp},
        {"mov %rsp, %rbp", {0x48, 0x8b, 0xec}, Effect::kSetFp},
        {"mov %rbp, %rsp", {0x48, 0x89, 0xec}, Effect::kSetSp, true},
        {"mov %esp, %ebp", {0x89, 0xe5}, Effect::kLoseFp},
        {"mov %rsp, %r13", {0x49, 0x89, 0xe5}, Effect::kNone},
        {"mov %r13, %rbp", {0x4c, 0x89, 0xed}, Effect::kLoseFp},
        {"sub $0x18, %rsp", {0x48, 0x83, 0xec, 0x18}, Effect::kSetSp, false, -0x18},
        {"add $0x1000, %rsp", {0x48, 0x81, 0xc4, 0, 0x10, 0, 0}, Effect::kSetSp, false, 0x1000},
        {"cmp $0x18, %rsp", {0x48, 0x83, 0xfc, 0x18}, Effect::kNone},
        {"and $-32, %rsp", {0x48, 0x83, 0xe4, 0xe0}, Effect::kLoseSp},
        {"sub %rax, %rsp", {0x48, 0x29, 0xc4}, Effect::kLoseSp},
        {"cmp %rax, %rsp", {0x48, 0x39, 0xc4}, Effect::kNone},
        {"lea -40(%rbp), %rsp", {0x48, 0x8d, 0x65, 0xd8}, Effect::kSetSp, true, -40},
        {"lea 8(%rsp), %rsp", {0x48, 0x8d, 0x64, 0x24, 8}, Effect::kSetSp, false, 8},
        {"lea -8(%r10), %rsp", {0x49, 0x8d, 0x62, 0xf8}, Effect::kLoseSp},
        {"lea 8(%rsp,%rdx,8), %rsp", {0x48, 0x8d, 0x64, 0xd4, 8}, Effect::kLoseSp},
        {"lea 0x20(%rsp), %rbp", {0x48, 0x8d, 0x6c, 0x24, 0x20}, Effect::kSetFp, false, 0x20},
        {"lea 8(%rsp), %r13", {0x4c, 0x8d, 0x6c, 0x24, 8}, Effect::kNone},
        {"mov %rbp, 0x20(%rsp)", {0x48, 0x89, 0x6c, 0x24, 0x20}, Effect::kStoreFp, false, 0x20},
        {"mov %rbp, 0x20(%r12)", {0x49, 0x89, 0x6c, 0x24, 0x20}, Effect::kNone},
        {"mov 0x20(%rsp), %rbp", {0x48, 0x8b, 0x6c, 0x24, 0x20}, Effect::kLoadFp, false, 0x20},
        {"mov -8(%rbp), %rbp", {0x48, 0x8b, 0x6d, 0xf8}, Effect::kLoadFp, true, -8},
        {"mov %fs:8(%rsp), %rbp", {0x64, 0x48, 0x8b, 0x6c, 0x24, 8}, Effect::kLoseFp},
        {"mov (%rdi), %rbp", {0x48, 0x8b, 0x2f}, Effect::kLoseFp},
        {"mov (%rdi), %r13", {0x4c, 0x8b, 0x2f}, Effect::kNone},
        {"xor %ebp, %ebp", {0x31, 0xed}, Effect::kLoseFp},
        {"mov $1, %ebp", {0xbd, 1, 0, 0, 0}, Effect::kLoseFp},
        {"mov $1, %ch", {0xb5, 1}, Effect::kNone},
        {"mov $1, %bpl", {0x40, 0xb5, 1}, Effect::kLoseFp},
        {"sete %ch", {0x0f, 0x94, 0xc5}, Effect::kNone},
        {"sete %bpl", {0x40, 0x0f, 0x94, 0xc5}, Effect::kLoseFp},
        {"cmove %eax, %ebp", {0x0f, 0x44, 0xe8}, Effect::kLoseFp},
        {"xchg %rax, %rbp", {0x48, 0x95}, Effect::kLoseFp},
        {"xchg %rsp, %rdi", {0x48, 0x87, 0xe7}, Effect::kLoseSp},
        {"xchg %rsp, %rbp", {0x48, 0x87, 0xe5}, Effect::kLose},
        {"enter $16, $0", {0xc8, 0x10, 0, 0}, Effect::kLose},
        {"movq %xmm0, %rbp", {0x66, 0x48, 0x0f, 0x7e, 0xc5}, Effect::kLoseFp},
        {"movaps %xmm0, %xmm5", {0x0f, 0x28, 0xe8}, Effect::kNone},
        {"vmovaps %ymm0, %ymm5", {0xc5, 0xfc, 0x28, 0xe8}, Effect::kNone},
        {"blsr %eax, %ebp", {0xc4, 0xe2, 0x50, 0xf3, 0xc8}, Effect::kLoseFp},
        {"endbr64", {0xf3, 0x0f, 0x1e, 0xfa}, Effect::kNone},
        {"nopw 0x0(%rax,%rax,1)", {0x66, 0x0f, 0x1f, 0x44, 0, 0}, Effect::kNone},
        {"movabs $1, %rbp", {0x48, 0xbd, 1, 0, 0, 0, 0, 0, 0, 0}, Effect::kLoseFp},
    };
    for (const Form &form : forms) {
        SCOPED_TRACE(form.text);
        const Instruction found = decoded(form.code);
        EXPECT_EQ(found.flow, Flow::kNext);
        EXPECT_EQ(found.effect, form.effect);
        EXPECT_EQ(found.from_fp, form.from_fp);
        EXPECT_EQ(found.offset, form.offset);
        EXPECT_EQ(found.of_fp, form.of_fp);
    }
}

TEST(Instruction, WhereItGoes) {
    EXPECT_EQ(decoded({0xc3}).flow, Flow::kReturn);
    EXPECT_EQ(decoded({0xf3, 0xc3}).flow, Flow::kReturn);
    EXPECT_EQ(decoded({0xc2, 0x10, 0x80}).offset, 0x8010);
    EXPECT_EQ(decoded({0xe8, 0xf0, 0xff, 0xff, 0xff}).target, -11);
    EXPECT_EQ(decoded({0x66, 0x66, 0x48, 0xe8, 0, 0, 0, 0}).flow, Flow::kCall);
    EXPECT_EQ(decoded({0x74, 0xfe}).flow, Flow::kBranch);
    EXPECT_EQ(decoded({0x74, 0xfe}).target, 0);
    EXPECT_EQ(decoded({0x0f, 0x85, 0, 1, 0, 0}).target, 0x106);
    EXPECT_EQ(decoded({0xe3, 0x10}).flow, Flow::kBranch);
    EXPECT_EQ(decoded({0xeb, 0x10}).flow, Flow::kJump);
    EXPECT_EQ(decoded({0xf2, 0xe9, 0, 0, 0, 0}).flow, Flow::kJump);
    EXPECT_EQ(decoded({0xff, 0xd0}).flow, Flow::kIndirectCall);
    EXPECT_EQ(decoded({0x41, 0xff, 0x55, 0x10}).flow, Flow::kIndirectCall);
    EXPECT_EQ(decoded({0x3e, 0xff, 0xe0}).flow, Flow::kIndirectJump);
    EXPECT_EQ(decoded({0xff, 0x25, 0, 0, 0, 0}).flow, Flow::kIndirectJump);
    EXPECT_EQ(decoded({0x0f, 0x05}).flow, Flow::kSystemCall);
    for (const Bytes &end : {Bytes{0xcc}, Bytes{0xf4}, Bytes{0x0f, 0x0b}})
        EXPECT_EQ(decoded(end).flow, Flow::kEnd);
}

TEST(Instruction, BytesThatAreNotAnInstruction) {
    for (const Bytes &code : {Bytes{}, Bytes{0x48}, Bytes{0x06}, Bytes{0x0f}, Bytes{0x0f, 0x04},
                              Bytes{0xea, 0, 0, 0, 0}, Bytes{0x48, 0x8d, 0xe5}, Bytes(16, 0x66), Bytes{0xff, 0xff}})
        EXPECT_FALSE(decode(code));
    // Cut at every byte: a part is none.
    const Bytes whole = {0x64, 0x48, 0x81, 0x84, 0x24, 1, 2, 3, 4, 5, 6, 7, 8};
    for (size_t size = 0; size < whole.size(); ++size)
        EXPECT_FALSE(decode(std::span(whole).first(size))) << size;
    EXPECT_TRUE(decode(whole));
}

// The group of FF once forgot that its operand was cut.
TEST(Instruction, APartOfAFarCallIsNone) {
    EXPECT_EQ(decoded({0xff, 0x2c, 0x24}).flow, Flow::kEnd); // ljmp *(%rsp)
    EXPECT_FALSE(decode(Bytes{0xff, 0x2c}));
    EXPECT_FALSE(decode(Bytes{0xff, 0x9c, 0x24, 0, 0, 0}));
}

// REX.W overrides an operand-size prefix, and lea uses no segment.
TEST(Instruction, PrefixesWithoutAnEffect) {
    EXPECT_EQ(decoded({0x66, 0x48, 0x8b, 0xec}).effect, Effect::kSetFp); // mov %rsp, %rbp
    EXPECT_EQ(decoded({0x66, 0x48, 0x83, 0xec, 0x18}).effect, Effect::kSetSp);
    EXPECT_EQ(decoded({0x64, 0x48, 0x8d, 0x65, 0xd8}).effect, Effect::kSetSp);  // lea %fs:-40(%rbp), %rsp
    EXPECT_EQ(decoded({0x67, 0x48, 0x8d, 0x65, 0xd8}).effect, Effect::kLoseSp); // lea -40(%ebp), %rsp
}

// These were once taken for instructions that write no general register.
TEST(Instruction, RareWritesOfFp) {
    EXPECT_EQ(decoded({0x0f, 0x78, 0xc5}).effect, Effect::kLoseFp);             // vmread %rax, %rbp
    EXPECT_EQ(decoded({0xf3, 0x0f, 0x38, 0xfa, 0xe8}).effect, Effect::kLoseFp); // encodekey128 %eax, %ebp
}

// Whether an instruction writes all or a part of a register, by Zydis.
bool writes(std::span<const ZydisDecodedOperand> operands, ZydisRegister reg) {
    for (const ZydisDecodedOperand &operand : operands)
        if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER && (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0 &&
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operand.reg.value) == reg)
            return true;
    return false;
}

std::string hex(std::span<const uint8_t> code) {
    std::string text;
    for (const uint8_t byte : code) {
        constexpr const char *kDigits = "0123456789abcdef";
        text += {kDigits[byte >> 4], kDigits[byte & 15], ' '};
    }
    return text;
}

class BesideZydis {
  public:
    BesideZydis() { ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); }

    // One instruction after the other.
    void compare_all(std::span<const uint8_t> code) {
        for (size_t at = 0; at < code.size();)
            at += std::max<size_t>(compare(code.subspan(at)), 1);
    }
    // The first one, whose length it returns; 0: there is none.
    size_t compare(std::span<const uint8_t> code) {
        ZydisDecodedInstruction theirs;
        std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> all;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, code.data(), code.size(), &theirs, all.data())))
            return 0;
        ++instructions;
        if (const auto ours = decode(code); !ours)
            ++unknown;
        else if (!is_inexact(theirs.mnemonic) && failures_ < kMostFailures)
            compare(*ours, theirs, std::span(all).first(theirs.operand_count), code.first(theirs.length));
        return theirs.length;
    }

    size_t instructions = 0;
    size_t unknown = 0; // Zydis knows them, dwunw does not

  private:
    static constexpr size_t kMostFailures = 20;

    // These count as writing a register that they read; or, on Knights Corner processors, write one that they do not
    // have elsewhere.
    static bool is_inexact(ZydisMnemonic mnemonic) {
        switch (mnemonic) {
        case ZYDIS_MNEMONIC_WRSSD:
        case ZYDIS_MNEMONIC_WRSSQ:
        case ZYDIS_MNEMONIC_KCONCATH:
        case ZYDIS_MNEMONIC_KCONCATL:
            return true;
        default:
            return false;
        }
    }

    void compare(const Instruction &ours, const ZydisDecodedInstruction &theirs,
                 std::span<const ZydisDecodedOperand> operands, std::span<const uint8_t> bytes) {
        const auto same = [&](auto a, auto b, const char *what) {
            EXPECT_EQ(a, b) << what << ": " << hex(bytes);
            failures_ += a != b;
        };
        same(size_t{ours.length}, size_t{theirs.length}, "length");
        const bool call = ours.flow == Flow::kCall || ours.flow == Flow::kIndirectCall;
        const bool sp = ours.effect == Effect::kPush || ours.effect == Effect::kPop || ours.effect == Effect::kSetSp ||
                        ours.effect == Effect::kLeave || ours.effect == Effect::kLoseSp ||
                        ours.effect == Effect::kLose || call || ours.flow == Flow::kReturn;
        const bool fp = ours.effect == Effect::kSetFp || ours.effect == Effect::kLoadFp ||
                        ours.effect == Effect::kLeave || ours.effect == Effect::kLoseFp ||
                        ours.effect == Effect::kLose || (ours.effect == Effect::kPop && ours.of_fp);
        // What never goes on may do what it likes.
        if (ours.flow != Flow::kEnd && ours.flow != Flow::kSystemCall) {
            same(sp || !writes(operands, ZYDIS_REGISTER_RSP), true, "rsp is written");
            same(fp || !writes(operands, ZYDIS_REGISTER_RBP), true, "rbp is written");
            if (ours.effect != Effect::kLose)
                same(!fp || writes(operands, ZYDIS_REGISTER_RBP), true, "rbp is not written");
            same(!sp || writes(operands, ZYDIS_REGISTER_RSP), true, "rsp is not written");
        }
        const bool relative = theirs.raw.imm[0].is_relative && operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
        const bool branches = ours.flow == Flow::kBranch || ours.flow == Flow::kJump || ours.flow == Flow::kCall;
        if (theirs.mnemonic != ZYDIS_MNEMONIC_XBEGIN)
            same(branches, relative, "a target");
        if (branches && relative)
            same(ours.target, static_cast<int64_t>(theirs.length) + theirs.raw.imm[0].value.s, "target");
        same(ours.flow == Flow::kReturn,
             theirs.mnemonic == ZYDIS_MNEMONIC_RET && theirs.opcode != 0xca && theirs.opcode != 0xcb, "returns");
        same(ours.flow == Flow::kIndirectJump,
             theirs.mnemonic == ZYDIS_MNEMONIC_JMP && !relative && (theirs.raw.modrm.reg & 7) == 4, "jumps");
    }

    ZydisDecoder decoder_;
    size_t failures_ = 0;
};

// The executable segments of an ELF file.
std::vector<Bytes> code_of(const char *path) {
    std::ifstream file(path, std::ios::binary);
    const Bytes bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<Bytes> result;
    Elf64_Ehdr header;
    if (bytes.size() < sizeof(header))
        return result;
    std::memcpy(&header, bytes.data(), sizeof(header));
    for (size_t i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr segment;
        std::memcpy(&segment, bytes.data() + header.e_phoff + i * sizeof(segment), sizeof(segment));
        if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0)
            result.emplace_back(bytes.begin() + static_cast<ptrdiff_t>(segment.p_offset),
                                bytes.begin() + static_cast<ptrdiff_t>(segment.p_offset + segment.p_filesz));
    }
    return result;
}

TEST(Instruction, WholeFilesBesideZydis) {
    BesideZydis seen;
    for (const char *path : {"/proc/self/exe", "/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libm.so.6",
                             "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"})
        for (const Bytes &code : code_of(path))
            seen.compare_all(code);
    EXPECT_GT(seen.instructions, 500'000u);
    // Data between the functions may decode to anything.
    EXPECT_LT(seen.unknown, seen.instructions / 2000);
    RecordProperty("instructions", static_cast<int>(seen.instructions));
    RecordProperty("unknown", static_cast<int>(seen.unknown));
}

TEST(Instruction, EveryOpcodeBesideZydis) {
    BesideZydis seen;
    EveryOpcode::for_each([&](std::span<const uint8_t> code) { seen.compare(code); });
    EXPECT_GT(seen.instructions, 1'500'000u);
    // Of control and debug registers, of transactions and of Knights Corner processors.
    EXPECT_LT(seen.unknown, seen.instructions / 100);
}

// Any bytes: no read beyond them, and an instruction that both know is as long as Zydis says.
TEST(Instruction, RandomBytesBesideZydis) {
    uint64_t state = 1;
    Bytes code(1 << 20);
    for (uint8_t &byte : code) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        byte = static_cast<uint8_t>(state >> 56);
    }
    BesideZydis seen;
    seen.compare_all(code);
    EXPECT_GT(seen.instructions, 200'000u);
}

} // namespace
} // namespace dwunw::arch::x86_64
