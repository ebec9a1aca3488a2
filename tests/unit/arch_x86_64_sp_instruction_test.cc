// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests each kind by hand, and compares lengths, jumps and writes of SP with Zydis on all instructions of some
// libraries.
#include "arch/x86_64/sp_instruction.h"

#include "elf/image.h"
#include "every_opcode_testing.h"
#include "process/file_source.h"

#include <Zydis/Zydis.h>

#include <gtest/gtest.h>

#include <link.h>

#include <string>
#include <vector>

namespace dwunw::arch::x86_64 {
namespace {

using Kind = SpInstruction::Kind;
using Bytes = std::vector<uint8_t>;

// Every byte of `code` is one instruction.
void expect(const Bytes &code, Kind kind, int64_t value = 0) {
    const SpInstruction found = decode_sp_instruction(code);
    EXPECT_EQ(found.length, code.size()) << ::testing::PrintToString(code);
    EXPECT_EQ(found.kind, kind) << ::testing::PrintToString(code);
    EXPECT_EQ(found.value, value) << ::testing::PrintToString(code);
    // And not with a byte less.
    EXPECT_EQ(decode_sp_instruction(std::span(code).first(code.size() - 1)).kind, Kind::kUnknown);
}

TEST(SpInstruction, ConstantsAreAddedToSp) {
    expect({0x55}, Kind::kAdds, -8);                                  // push %rbp
    expect({0x41, 0x54}, Kind::kAdds, -8);                            // push %r12
    expect({0x54}, Kind::kAdds, -8);                                  // push %rsp
    expect({0x66, 0x50}, Kind::kAdds, -2);                            // push %ax
    expect({0x6a, 0x01}, Kind::kAdds, -8);                            // push $1
    expect({0x68, 1, 2, 3, 4}, Kind::kAdds, -8);                      // push $imm32
    expect({0xff, 0x74, 0x24, 0x08}, Kind::kAdds, -8);                // push 8(%rsp)
    expect({0x9c}, Kind::kAdds, -8);                                  // pushf
    expect({0x0f, 0xa0}, Kind::kAdds, -8);                            // push %fs
    expect({0x5d}, Kind::kAdds, 8);                                   // pop %rbp
    expect({0x41, 0x5c}, Kind::kAdds, 8);                             // pop %r12
    expect({0x8f, 0x00}, Kind::kAdds, 8);                             // pop (%rax)
    expect({0x48, 0x83, 0xec, 0x40}, Kind::kAdds, -0x40);             // sub $0x40,%rsp
    expect({0x48, 0x83, 0xec, 0x80}, Kind::kAdds, 0x80);              // sub $-0x80,%rsp
    expect({0x48, 0x81, 0xec, 0, 1, 0, 0}, Kind::kAdds, -0x100);      // sub $0x100,%rsp
    expect({0x48, 0x83, 0xc4, 0x40}, Kind::kAdds, 0x40);              // add $0x40,%rsp
    expect({0x48, 0x8d, 0x64, 0x24, 0xb8}, Kind::kAdds, -0x48);       // lea -0x48(%rsp),%rsp
    expect({0x48, 0x8d, 0xa4, 0x24, 0, 1, 0, 0}, Kind::kAdds, 0x100); // lea 0x100(%rsp),%rsp
    expect({0x48, 0x8d, 0x24, 0x24}, Kind::kAdds, 0);                 // lea (%rsp),%rsp
}

TEST(SpInstruction, ReplacementsOfSpAreSeen) {
    expect({0x48, 0x8b, 0x66, 0x38}, Kind::kReplaces);                      // mov 0x38(%rsi),%rsp
    expect({0x49, 0x8b, 0x66, 0x38}, Kind::kReplaces);                      // mov 0x38(%r14),%rsp
    expect({0x48, 0x8b, 0x23}, Kind::kReplaces);                            // mov (%rbx),%rsp
    expect({0x48, 0x8b, 0x64, 0x24, 0x08}, Kind::kReplaces);                // mov 8(%rsp),%rsp
    expect({0x48, 0x8b, 0x25, 1, 2, 3, 4}, Kind::kReplaces);                // mov n(%rip),%rsp
    expect({0x64, 0x48, 0x8b, 0x24, 0x25, 0x10, 0, 0, 0}, Kind::kReplaces); // mov %fs:0x10,%rsp
    expect({0x48, 0x89, 0xf4}, Kind::kReplaces);                            // mov %rsi,%rsp
    expect({0x4c, 0x89, 0xcc}, Kind::kReplaces);                            // mov %r9,%rsp
    expect({0x89, 0xc4}, Kind::kReplaces);                                  // mov %eax,%esp
    expect({0x48, 0x83, 0xe4, 0xf0}, Kind::kReplaces);                      // and $-16,%rsp
    expect({0x48, 0x81, 0xe4, 0, 0xff, 0xff, 0xff}, Kind::kReplaces);       // and $-256,%rsp
    expect({0x40, 0x80, 0xe4, 0xf0}, Kind::kReplaces);                      // and $-16,%spl
    expect({0x83, 0xec, 0x08}, Kind::kReplaces);                            // sub $8,%esp
    expect({0x48, 0x29, 0xc4}, Kind::kReplaces);                            // sub %rax,%rsp
    expect({0x48, 0x03, 0x20}, Kind::kReplaces);                            // add (%rax),%rsp
    expect({0x48, 0x87, 0xe0}, Kind::kReplaces);                            // xchg %rsp,%rax
    expect({0x48, 0x87, 0x23}, Kind::kReplaces);                            // xchg %rsp,(%rbx)
    expect({0x48, 0x94}, Kind::kReplaces);                                  // xchg %rax,%rsp
    expect({0x48, 0x8d, 0x65, 0xd8}, Kind::kReplaces);                      // lea -0x28(%rbp),%rsp
    expect({0x49, 0x8d, 0x62, 0xf8}, Kind::kReplaces);                      // lea -8(%r10),%rsp
    expect({0x48, 0x8d, 0x24, 0x04}, Kind::kReplaces);                      // lea (%rsp,%rax),%rsp
    expect({0x5c}, Kind::kReplaces);                                        // pop %rsp
    expect({0xc9}, Kind::kReplaces);                                        // leave
    expect({0xc8, 0x10, 0, 0}, Kind::kReplaces);                            // enter
    expect({0x48, 0x0f, 0x44, 0xe0}, Kind::kReplaces);                      // cmove %rax,%rsp
    expect({0x66, 0x48, 0x0f, 0x7e, 0xc4}, Kind::kReplaces);                // movq %xmm0,%rsp
    expect({0x48, 0xc7, 0xc4, 1, 0, 0, 0}, Kind::kReplaces);                // mov $1,%rsp
    expect({0x48, 0xbc, 1, 2, 3, 4, 5, 6, 7, 8}, Kind::kReplaces);          // movabs
}

// Each once had another answer, which Zydis does not share.
TEST(SpInstruction, RareInstructionsAreKnown) {
    expect({0x48, 0x66, 0x54}, Kind::kAdds, -2);          // REX has no effect: push %sp
    expect({0x66, 0x0f, 0x78, 0xc0, 1, 2}, Kind::kOther); // extrq has two bytes of immediate
    expect({0x48, 0x0f, 0xb2, 0x20}, Kind::kReplaces);    // lss (%rax), %rsp
    expect({0x40, 0x0f, 0x94, 0xc4}, Kind::kReplaces);    // sete %spl
    expect({0x48, 0x0f, 0xc7, 0xf4}, Kind::kReplaces);    // rdrand %rsp
    expect({0xf3, 0x0f, 0x7e, 0xc4}, Kind::kOther);       // movq %xmm4, %xmm0
    expect({0x0f, 0x2c, 0xe0}, Kind::kOther);             // cvttps2pi %xmm0, %mm4
}

TEST(SpInstruction, InstructionsThatOnlySeemToWriteSp) {
    expect({0x48, 0x89, 0xe2}, Kind::kOther);                      // mov %rsp,%rdx
    expect({0x48, 0x89, 0xe4}, Kind::kOther);                      // mov %rsp,%rsp
    expect({0x4c, 0x8b, 0x66, 0x38}, Kind::kOther);                // mov 0x38(%rsi),%r12
    expect({0x49, 0x89, 0xf4}, Kind::kOther);                      // mov %rsi,%r12
    expect({0x49, 0x83, 0xe4, 0xf0}, Kind::kOther);                // and $-16,%r12
    expect({0x48, 0x83, 0xfc, 0x08}, Kind::kOther);                // cmp $8,%rsp
    expect({0x48, 0x39, 0xc4}, Kind::kOther);                      // cmp %rax,%rsp
    expect({0x88, 0xc4}, Kind::kOther);                            // mov %al,%ah
    expect({0xb4, 0x01}, Kind::kOther);                            // mov $1,%ah
    expect({0x4c, 0x8d, 0x65, 0xd8}, Kind::kOther);                // lea -0x28(%rbp),%r12
    expect({0xc5, 0xf8, 0x77}, Kind::kOther);                      // vzeroupper
    expect({0x62, 0xf1, 0x7c, 0x48, 0x10, 0x46, 1}, Kind::kOther); // vmovups 0x40(%rsi),%zmm0
}

TEST(SpInstruction, WhereItGoesOn) {
    expect({0xc3}, Kind::kReturns);
    expect({0xf3, 0xc3}, Kind::kReturns);
    expect({0xc2, 8, 0}, Kind::kReturns);
    expect({0xeb, 0xfe}, Kind::kJumps, -2);
    expect({0xe9, 1, 0, 0, 0}, Kind::kJumps, 1);
    expect({0x74, 0x05}, Kind::kBranches, 5);
    expect({0x0f, 0x84, 5, 0, 0, 0}, Kind::kBranches, 5);
    expect({0xe3, 0x05}, Kind::kBranches, 5);
    expect({0xe8, 1, 0, 0, 0}, Kind::kCalls);
    expect({0xff, 0xd0}, Kind::kCalls);
    expect({0x41, 0xff, 0xd4}, Kind::kCalls);
    expect({0xff, 0xe3}, Kind::kJumpsByValue);
    expect({0x3e, 0xff, 0x24, 0xc5, 0, 0, 0, 0}, Kind::kJumpsByValue);
    expect({0x0f, 0x0b}, Kind::kStops);
    expect({0xf4}, Kind::kStops);
    expect({0xcc}, Kind::kStops);
}

TEST(SpInstruction, BytesThatAreNoInstructionAreUnknown) {
    for (const Bytes &code : {Bytes{}, Bytes{0x06}, Bytes{0x0f, 0x04}, Bytes{0xd6}, Bytes{0xea, 1, 2, 3, 4, 5, 6},
                              Bytes(16, 0x66), Bytes{0x62, 0xf4, 0, 0, 0, 0}, Bytes{0x8f, 0x2b, 0, 0, 0}})
        EXPECT_EQ(decode_sp_instruction(code).kind, Kind::kUnknown) << ::testing::PrintToString(code);
}

std::vector<std::string> loaded_files() {
    std::vector<std::string> files = {"/proc/self/exe"};
    ::dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *out) {
            if (*info->dlpi_name == '/')
                static_cast<std::vector<std::string> *>(out)->emplace_back(info->dlpi_name);
            return 0;
        },
        &files);
    return files;
}

bool writes_sp(const ZydisDecodedInstruction &decoded, const ZydisDecodedOperand *operands) {
    for (unsigned i = 0; i < decoded.operand_count; ++i)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0 &&
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operands[i].reg.value) == ZYDIS_REGISTER_RSP)
            return true;
    return false;
}

Kind kind_of(const ZydisDecodedInstruction &decoded, const ZydisDecodedOperand *operands) {
    const bool by_constant = decoded.raw.imm[0].is_relative;
    if (decoded.mnemonic == ZYDIS_MNEMONIC_XBEGIN || decoded.mnemonic == ZYDIS_MNEMONIC_XABORT ||
        decoded.mnemonic == ZYDIS_MNEMONIC_XEND)
        return Kind::kOther; // a transaction's: where it leads besides, SP is what it was
    switch (decoded.meta.category) {
    case ZYDIS_CATEGORY_UNCOND_BR:
        return by_constant ? Kind::kJumps : Kind::kJumpsByValue;
    case ZYDIS_CATEGORY_COND_BR:
        return Kind::kBranches;
    case ZYDIS_CATEGORY_CALL:
        return Kind::kCalls;
    default:
        break;
    }
    switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_RET:
        return decoded.opcode < 0xc8 ? Kind::kReturns : Kind::kStops;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_RSM:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_SYSRET:
        return Kind::kStops;
    case ZYDIS_MNEMONIC_SYSENTER: // SP is what it was when the kernel returns
        return Kind::kOther;
    case ZYDIS_MNEMONIC_MOV:
        if (operands[0].reg.value == ZYDIS_REGISTER_RSP && operands[1].reg.value == ZYDIS_REGISTER_RSP)
            return Kind::kOther;
        [[fallthrough]];
    default:
        return writes_sp(decoded, operands) ? Kind::kReplaces : Kind::kOther;
    }
}

class SpInstructionBesideZydis : public testing::Test {
  protected:
    SpInstructionBesideZydis() { ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); }

    // The first instruction, whose length it returns; 0: there is none.
    size_t compare(std::span<const uint8_t> code) {
        ZydisDecodedInstruction decoded;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&decoder_, code.data(), code.size(), &decoded, operands)))
            return 0;
        // Branches that only Knights Corner processors had.
        if (decoded.mnemonic == ZYDIS_MNEMONIC_JKZD || decoded.mnemonic == ZYDIS_MNEMONIC_JKNZD)
            return decoded.length;
        const Bytes bytes(code.begin(), code.begin() + decoded.length);
        compare(decode_sp_instruction(code), decoded, operands, bytes);
        return decoded.length;
    }

    size_t compared_ = 0;
    size_t write_sp_ = 0;

  private:
    // Those with VEX, EVEX or XOP count as not writing SP, and the others as writing it, though they only read it.
    static bool is_inexact(const ZydisDecodedInstruction &decoded) {
        return decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ||
               decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
               decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_XOP || decoded.mnemonic == ZYDIS_MNEMONIC_WRSSD ||
               decoded.mnemonic == ZYDIS_MNEMONIC_WRSSQ;
    }

    void compare(const SpInstruction &found, const ZydisDecodedInstruction &decoded,
                 const ZydisDecodedOperand *operands, const Bytes &bytes) {
        ASSERT_EQ(found.length, decoded.length) << testing::PrintToString(bytes);
        const Kind expected = kind_of(decoded, operands);
        if (found.kind == Kind::kAdds)
            ASSERT_EQ(expected, Kind::kReplaces) << testing::PrintToString(bytes);
        else if (is_inexact(decoded))
            ASSERT_TRUE(found.kind == Kind::kOther || found.kind == Kind::kReplaces) << testing::PrintToString(bytes);
        else
            ASSERT_EQ(found.kind, expected) << testing::PrintToString(bytes);
        if (expected == Kind::kJumps || expected == Kind::kBranches) {
            ASSERT_EQ(found.value, decoded.raw.imm[0].value.s) << testing::PrintToString(bytes);
        }
        write_sp_ += expected == Kind::kReplaces;
        ++compared_;
    }

    ZydisDecoder decoder_;
};

TEST_F(SpInstructionBesideZydis, EveryInstructionOfLibraries) {
    for (const std::string &path : loaded_files()) {
        SCOPED_TRACE(path);
        auto source = process::FileSource::open(path.c_str());
        ASSERT_TRUE(source);
        auto image = elf::Image::parse(*source);
        ASSERT_TRUE(image);
        auto text = image->read_section(*source, ".text");
        ASSERT_TRUE(text && *text);
        std::span<const uint8_t> code = (*text)->bytes;
        while (!code.empty() && !HasFatalFailure())
            code = code.subspan(std::max<size_t>(compare(code), 1)); // what is none is data
    }
    EXPECT_GT(compared_, 500'000u);
    EXPECT_GT(write_sp_, 50'000u);
}

TEST_F(SpInstructionBesideZydis, EveryOpcodeIsAsZydisSays) {
    EveryOpcode::for_each([&](std::span<const uint8_t> code) {
        if (!HasFatalFailure())
            compare(code);
    });
    EXPECT_GT(compared_, 1'500'000u);
}

} // namespace
} // namespace dwunw::arch::x86_64
