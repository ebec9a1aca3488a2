// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests which code does not write a register: by hand, and against a disassembler on every instruction of the libraries
// that this test has loaded, and on random bytes.
#include "arch/x86_64/register_writes.h"

#include "arch/x86_64/arch.h"
#include "every_opcode_testing.h"

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>
#include <link.h>

#include <algorithm>
#include <optional>
#include <random>
#include <set>
#include <vector>

namespace dwunw::arch::x86_64 {
namespace {

using Code = std::vector<uint8_t>;

bool alone(const Code &code, Register reg) { return leaves_alone(code, reg, {}); }

// One instruction and a ret.
bool alone_in(Code instruction, Register reg) {
    instruction.push_back(0xc3);
    return alone(instruction, reg);
}

TEST(RegisterWrites, EachInstructionsWritesAreKnown) {
    EXPECT_TRUE(alone_in({0x90}, kRax));
    EXPECT_TRUE(alone_in({0x48, 0x89, 0xc3}, kRax)); // mov %rax, %rbx
    EXPECT_FALSE(alone_in({0x48, 0x89, 0xc3}, kRbx));
    EXPECT_FALSE(alone_in({0xb4, 0x01}, kRax)); // mov $1, %ah
    EXPECT_FALSE(alone_in({0x49, 0x89, 0xc3}, kR11));
    EXPECT_TRUE(alone_in({0x49, 0x89, 0x03}, kR11));                 // mov %rax, (%r11)
    EXPECT_TRUE(alone_in({0xc5, 0xf9, 0x6f, 0x01}, kRax));           // vmovdqa (%rcx), %xmm0
    EXPECT_FALSE(alone_in({0xc4, 0xe2, 0xf3, 0xf6, 0xc2}, kRcx));    // mulx %rdx, %rcx, %rax
    EXPECT_FALSE(alone_in({0xc4, 0xe2, 0xf3, 0xf6, 0xc2}, kRax));    //
    EXPECT_TRUE(alone_in({0xc4, 0xe2, 0xf3, 0xf6, 0xc2}, kR11));     //
    EXPECT_FALSE(alone_in({0xf7, 0xe1}, kRdx));                      // mul %ecx
    EXPECT_FALSE(alone_in({0x66, 0x0f, 0x3a, 0x61, 0xc1, 0}, kRcx)); // pcmpestri
}

TEST(RegisterWrites, CodeWithoutAProofCountsAsAWrite) {
    for (const Code &code : {
             Code{0xe8, 0, 0, 0, 0},       // call
             Code{0xff, 0xd1},             // call *%rcx
             Code{0xff, 0xe1},             // jmp *%rcx
             Code{0x0f, 0x05},             // syscall
             Code{0xcd, 0x80},             // int $0x80
             Code{0xcc},                   // int3
             Code{0x0f, 0xa2},             // cpuid
             Code{0x0f, 0x31},             // rdtsc
             Code{0x0f, 0x01, 0xd0},       // xgetbv
             Code{0xa4},                   // movsb
             Code{0xf3, 0x0f, 0x1e, 0xc9}, // rdsspd %ecx
             Code{0xf3, 0x0f, 0xae, 0xc1}, // rdfsbase %ecx
             Code{0x67, 0x89, 0x01},       // mov %eax, (%ecx): no compiler's
         })
        EXPECT_FALSE(alone_in(code, kR15)) << testing::PrintToString(code);
}

TEST(RegisterWrites, AllOfTheFunction) {
    EXPECT_FALSE(alone({}, kRax));
    EXPECT_FALSE(alone({0x90}, kRax)); // goes on behind its end
    EXPECT_FALSE(alone({0x48}, kRax)); // is cut
    EXPECT_TRUE(alone({0xeb, 0xfe}, kRax));
    EXPECT_TRUE(alone({0x75, 0x01, 0xc3, 0xc3}, kRax));  // jne within it
    EXPECT_FALSE(alone({0x75, 0x02, 0xc3, 0xc3}, kRax)); // and out of it
    EXPECT_FALSE(alone({0x75, 0xfd, 0xc3}, kRax));
    EXPECT_FALSE(alone({0x0f, 0x84, 0, 0, 0, 0x80, 0xc3}, kRax));
    EXPECT_FALSE(alone({0xc3, 0x58, 0xc3}, kRax)); // behind a ret
    // A jump into an instruction: mov $0xc358, %ecx would be pop %rax; ret.
    EXPECT_FALSE(alone({0x75, 0x01, 0xb9, 0x58, 0xc3, 0, 0, 0xc3}, kRax));
    const Code code = {0xb9, 0x58, 0xc3, 0, 0, 0xc3};
    const std::vector<size_t> beginnings = {0, 5};
    EXPECT_TRUE(leaves_alone(code, kRax, beginnings));
    for (const size_t entry : {1, 4, 6, 1000}) {
        const std::vector<size_t> entries = {entry};
        EXPECT_FALSE(leaves_alone(code, kRax, entries)) << entry;
    }
    EXPECT_FALSE(alone(Code(8193, 0x90), kRax));
    EXPECT_FALSE(leaves_alone(Code{0xc3}, kRip, {}));
}

// What a disassembler says.
struct Decoded {
    size_t length = 0;
    std::set<ZydisRegister> written; // of 64 bits
    bool leaves = false;             // calls, or goes where it does not say
};

class Disassembler {
  public:
    Disassembler() { ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); }

    std::optional<Decoded> decode(std::span<const uint8_t> code) const {
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, code.data(), code.size(), &instruction, operands)))
            return std::nullopt;
        Decoded result;
        result.length = instruction.length;
        for (size_t i = 0; i < instruction.operand_count; ++i)
            if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                (operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0)
                result.written.insert(
                    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operands[i].reg.value));
        switch (instruction.meta.category) {
        case ZYDIS_CATEGORY_CALL:
        case ZYDIS_CATEGORY_SYSCALL:
        case ZYDIS_CATEGORY_INTERRUPT:
        case ZYDIS_CATEGORY_SYSRET:
            result.leaves = true;
            break;
        case ZYDIS_CATEGORY_UNCOND_BR:
            result.leaves = operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE;
            break;
        default:
            break;
        }
        return result;
    }

  private:
    ZydisDecoder decoder_;
};

constexpr std::array<ZydisRegister, 16> kNumbered = {
    ZYDIS_REGISTER_RAX, ZYDIS_REGISTER_RDX, ZYDIS_REGISTER_RCX, ZYDIS_REGISTER_RBX,
    ZYDIS_REGISTER_RSI, ZYDIS_REGISTER_RDI, ZYDIS_REGISTER_RBP, ZYDIS_REGISTER_RSP,
    ZYDIS_REGISTER_R8,  ZYDIS_REGISTER_R9,  ZYDIS_REGISTER_R10, ZYDIS_REGISTER_R11,
    ZYDIS_REGISTER_R12, ZYDIS_REGISTER_R13, ZYDIS_REGISTER_R14, ZYDIS_REGISTER_R15,
};

// SP is no register that is asked for.
bool asked_for(uint8_t reg) { return reg != kRsp; }

// Claims of code that it leaves a register alone which are not the disassembler's; up to the first instruction that is
// none for it.
bool agrees(const Disassembler &disassembler, const Code &code, uint8_t reg) {
    if (!leaves_alone(code, reg, {}))
        return true;
    for (size_t at = 0; at < code.size();) {
        const auto decoded = disassembler.decode(std::span(code).subspan(at));
        if (!decoded)
            return true;
        if (decoded->leaves || decoded->written.contains(kNumbered[reg]))
            return false;
        at += decoded->length;
    }
    return true;
}

std::vector<std::span<const uint8_t>> loaded_code() {
    std::vector<std::span<const uint8_t>> result;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *out) {
            for (size_t i = 0; i < info->dlpi_phnum; ++i)
                if (const auto &segment = info->dlpi_phdr[i];
                    segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0)
                    static_cast<std::vector<std::span<const uint8_t>> *>(out)->emplace_back(
                        reinterpret_cast<const uint8_t *>(info->dlpi_addr + segment.p_vaddr), segment.p_memsz);
            return 0;
        },
        &result);
    return result;
}

// libc, libm and libcrypto among them, with all that they have for AVX2 and AVX-512.
TEST(RegisterWrites, EveryInstructionOfTheLoadedLibrariesBesideADisassembler) {
    const Disassembler disassembler;
    std::set<Code> seen;
    size_t known = 0;
    for (const auto code : loaded_code())
        for (size_t at = 0; at < code.size();) {
            const auto decoded = disassembler.decode(code.subspan(at));
            if (!decoded) {
                ++at;
                continue;
            }
            Code instruction(code.begin() + static_cast<ptrdiff_t>(at),
                             code.begin() + static_cast<ptrdiff_t>(at + decoded->length));
            at += decoded->length;
            if (!seen.insert(instruction).second)
                continue;
            instruction.push_back(0xc3);
            bool is_known = false;
            for (uint8_t reg = 0; reg < kNumbered.size(); ++reg) {
                if (!asked_for(reg))
                    continue;
                const bool claimed = leaves_alone(instruction, reg, {});
                // It is one instruction: the ret begins one, and nothing before it does.
                for (size_t entry = 0; claimed && !is_known && entry < instruction.size(); ++entry) {
                    const std::array<size_t, 1> entries = {entry};
                    ASSERT_EQ(leaves_alone(instruction, reg, entries), entry == 0 || entry == decoded->length)
                        << entry << ' ' << testing::PrintToString(instruction);
                }
                is_known |= claimed;
                ASSERT_FALSE(claimed && (decoded->leaves || decoded->written.contains(kNumbered[reg])))
                    << int{reg} << ' ' << testing::PrintToString(instruction);
            }
            known += is_known;
        }
    RecordProperty("instructions", std::to_string(seen.size()));
    RecordProperty("known", std::to_string(known));
    // Most of the others are jumps and calls, which differ by their distances.
    EXPECT_GT(known, seen.size() / 4);
}

// What has all writes has those of the disassembler.
TEST(RegisterWrites, EveryOpcodeBesideADisassembler) {
    const Disassembler disassembler;
    size_t complete = 0;
    EveryOpcode::for_each([&](std::span<const uint8_t> code) {
        Encoding encoding;
        const auto decoded = disassembler.decode(code);
        if (!decoded || !read_encoding(code, encoding))
            return;
        const RegisterWrites writes = register_writes(encoding);
        complete += writes.complete;
        bool leaves = writes.complete && decoded->leaves;
        for (uint8_t reg = 0; reg < kNumbered.size(); ++reg)
            leaves |= writes.complete && asked_for(reg) && !writes.has(kEncoded[reg]) &&
                      decoded->written.contains(kNumbered[reg]);
        EXPECT_FALSE(leaves) << testing::PrintToString(Code(code.begin(), code.end()));
    });
    EXPECT_GT(complete, 1'000'000u);
}

// Without REX, number 4 is ah, and with it spl.
TEST(RegisterWrites, SecondBytesNameTheirRegister) {
    EXPECT_FALSE(alone_in({0xb4, 0x01}, kRax)); // mov $1, %ah
    EXPECT_TRUE(alone_in({0xb4, 0x01}, kRsp));
    EXPECT_FALSE(alone_in({0x40, 0xb4, 0x01}, kRsp)); // mov $1, %spl
    EXPECT_TRUE(alone_in({0x40, 0xb4, 0x01}, kRax));
    EXPECT_TRUE(alone_in({0xb7, 0x01}, kRdi)); // mov $1, %bh
    EXPECT_FALSE(alone_in({0xb7, 0x01}, kRbx));
}

// A form that no compiler writes proves nothing.
TEST(RegisterWrites, RexBeforeAnotherPrefix) { EXPECT_FALSE(alone_in({0x48, 0x66, 0x90}, kR15)); }

TEST(RegisterWrites, SumsWriteTheirTarget) {
    const auto sum = [](const Code &code) {
        Encoding encoding;
        EXPECT_TRUE(read_encoding(code, encoding));
        return register_sum(encoding);
    };
    const auto expect = [&](const Code &code, unsigned to, unsigned from, int64_t constant) {
        const auto found = sum(code);
        ASSERT_TRUE(found) << testing::PrintToString(code);
        EXPECT_EQ(found->to, to);
        EXPECT_EQ(found->from, from);
        EXPECT_EQ(found->constant, constant);
    };
    expect({0x4c, 0x89, 0xe5}, 5, 12, 0);                        // mov %r12, %rbp
    expect({0x4c, 0x8b, 0xe5}, 12, 5, 0);                        // mov %rbp, %r12
    expect({0x48, 0x83, 0xec, 0x18}, 4, 4, -0x18);               // sub $0x18, %rsp
    expect({0x48, 0x81, 0xec, 0, 0, 0, 0x80}, 4, 4, 0x80000000); // sub $-0x80000000, %rsp
    expect({0x48, 0x8d, 0x65, 0xd8}, 4, 5, -40);                 // lea -40(%rbp), %rsp
    EXPECT_FALSE(sum({0x89, 0xe5}));                             // mov %esp, %ebp
    EXPECT_FALSE(sum({0x48, 0x83, 0xe4, 0xf0}));                 // and $-16, %rsp
    EXPECT_FALSE(sum({0x48, 0x83, 0x28, 0x18}));                 // subq $0x18, (%rax)
    EXPECT_FALSE(sum({0x48, 0x8b, 0x20}));                       // mov (%rax), %rsp
    EXPECT_FALSE(sum({0x48, 0x8d, 0x25, 0, 0, 0, 0}));           // lea 0(%rip), %rsp
}

TEST(RegisterWrites, RandomBytesBesideADisassembler) {
    const Disassembler disassembler;
    std::mt19937_64 random(1);
    const Code openings = {0x0f, 0x66, 0xf2, 0xf3, 0x48, 0x41, 0xc4, 0xc5, 0x62, 0x38, 0x3a};
    size_t claims = 0;
    for (int round = 0; round < 300'000; ++round) {
        Code code(random() % 15 + 1);
        for (uint8_t &byte : code)
            byte = static_cast<uint8_t>(random());
        for (size_t i = 0; i < code.size() && random() % 2 == 0; ++i)
            code[i] = openings[random() % openings.size()];
        code.push_back(0xc3);
        for (const Register reg : {kRax, kRdx, kRcx, kRbp, kRdi, kR11}) {
            claims += leaves_alone(code, reg, {});
            ASSERT_TRUE(agrees(disassembler, code, reg)) << int{reg} << ' ' << testing::PrintToString(code);
        }
    }
    EXPECT_GT(claims, 1000u);
}

} // namespace
} // namespace dwunw::arch::x86_64
