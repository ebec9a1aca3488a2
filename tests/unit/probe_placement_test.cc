// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests where probes are placed: every class of instruction that may or may not be passed over, every kind that the
// kernel emulates, every other way into the function. Code is written byte for byte, with its assembly beside it.
#include <dwunw/probe_placement.h>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using Bytes = std::vector<uint8_t>;
constexpr uint32_t kLinux618 = 6 << 16 | 18 << 8;
constexpr uint32_t kLinux517 = 5 << 16 | 17 << 8;

Bytes operator+(Bytes a, const Bytes &b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

const Bytes kPushRbp = {0x55};
const Bytes kRet = {0xc3};
const Bytes kTestRdiRdi = {0x48, 0x85, 0xff};

dwunw_probe_placement place(const Bytes &code, uint32_t arguments = 0, uint32_t kernel = kLinux618,
                            uint32_t flags = 0) {
    dwunw_probe_options options{};
    options.size = sizeof(options);
    options.flags = flags;
    options.arguments = arguments;
    options.kernel = kernel;
    dwunw_probe_placement result{};
    result.size = sizeof(result);
    EXPECT_EQ(dwunw_probe_place_code(code.data(), code.size(), &options, &result), DWUNW_OK);
    EXPECT_EQ(result.link_address, result.offset);
    EXPECT_EQ(result.file_offset, result.offset);
    return result;
}

struct Case {
    const char *assembly;
    Bytes code;
};

TEST(Placement, FirstInstructionsThatTheKernelEmulates) {
    const Case cases[] = {
        {"push rbp", {0x55}},
        {"push r12", {0x41, 0x54}},
        {"nop", {0x90}},
        {"xchg ax, ax", {0x66, 0x90}},
        {"jmp rel8", {0xeb, 0x00}},
        {"jmp rel32", {0xe9, 0, 0, 0, 0}},
        {"bnd jmp rel32", {0xf2, 0xe9, 0, 0, 0, 0}},
        {"je rel8", {0x74, 0x00}},
        {"ja rel32", {0x0f, 0x87, 0, 0, 0, 0}},
        {"call rel32", {0xe8, 0, 0, 0, 0}},
    };
    for (const Case &c : cases) {
        const auto result = place(c.code + kRet, 0, kLinux517);
        EXPECT_EQ(result.why, DWUNW_PROBE_ENTRY_IS_EMULATED) << c.assembly;
        EXPECT_EQ(result.emulated, 1U) << c.assembly;
        EXPECT_EQ(result.offset, 0U) << c.assembly;
    }
}

// xchg eax, r8d is 90 behind a REX prefix: the kernel would take it for a nop, and the exchange would be lost.
TEST(Placement, EncodingsThatAreNotOrShouldNotBeEmulated) {
    const Case cases[] = {
        {"xchg r8d, eax", {0x41, 0x90}},
        {"rex.w push rbp", {0x48, 0x55}},
        {"push rbp as ff /6", {0xff, 0xf5}},
        {"push 1", {0x6a, 0x01}},
        {"push ax", {0x66, 0x50}},
        {"data16 jmp", {0x66, 0xe9, 0, 0, 0, 0}},
        {"je, predicted taken", {0x3e, 0x74, 0}},
        {"jrcxz", {0xe3, 0}},
        {"loop", {0xe2, 0}},
        {"ret", {0xc3}},
        {"cs nopw", {0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}},
        {"endbr64", {0xf3, 0x0f, 0x1e, 0xfa}},
        {"call [rip]", {0xff, 0x15, 0, 0, 0, 0}},
    };
    for (const Case &c : cases) {
        const auto result = place(c.code + kRet);
        EXPECT_EQ(result.emulated, 0U) << c.assembly;
        EXPECT_EQ(result.offset, 0U) << c.assembly;
        EXPECT_NE(result.why, DWUNW_PROBE_ENTRY_IS_EMULATED) << c.assembly;
    }
}

TEST(Placement, MultiByteNopsAreEmulatedSinceLinux618AndPassedOverBefore) {
    const Bytes code = Bytes{0x0f, 0x1f, 0x44, 0x00, 0x00} + kPushRbp + kRet; // nop [rax+rax]
    EXPECT_EQ(place(code, 0, kLinux618).why, DWUNW_PROBE_ENTRY_IS_EMULATED);
    const auto older = place(code, 0, kLinux517);
    EXPECT_EQ(older.why, DWUNW_PROBE_MOVED);
    EXPECT_EQ(older.offset, 5U);
}

// Linux 6.18 makes a call of it, whose return address lands in the red zone.
TEST(Placement, FiveByteNopsBehindTheFirstByteArePassedOver) {
    const Bytes nop{0x0f, 0x1f, 0x44, 0x00, 0x00};
    const auto behind = place(kTestRdiRdi + nop + kPushRbp + kRet, 0, kLinux618);
    EXPECT_EQ(behind.why, DWUNW_PROBE_MOVED);
    EXPECT_EQ(behind.offset, 8U);
    const auto last = place(kTestRdiRdi + nop + kRet, 0, kLinux618);
    EXPECT_EQ(last.offset, 0U);
    // Other lengths stay nops.
    EXPECT_EQ(place(kTestRdiRdi + Bytes{0x0f, 0x1f, 0x40, 0x00} + kRet, 0, kLinux618).offset, 3U);
}

TEST(Placement, InstructionsThatArePassedOver) {
    const Case cases[] = {
        {"endbr64", {0xf3, 0x0f, 0x1e, 0xfa}},
        {"test rdi, rdi", kTestRdiRdi},
        {"cmp rdi, 0x1000", {0x48, 0x81, 0xff, 0x00, 0x10, 0, 0}},
        {"mov rax, rdi", {0x48, 0x89, 0xf8}},
        {"mov eax, 1", {0xb8, 1, 0, 0, 0}},
        {"mov r10d, ecx", {0x41, 0x89, 0xca}},
        {"lea r10, [rsp+8]", {0x4c, 0x8d, 0x54, 0x24, 0x08}},
        {"lea rax, [rip+16]", {0x48, 0x8d, 0x05, 16, 0, 0, 0}},
        {"xor eax, eax", {0x31, 0xc0}},
        {"mov rax, rsp", {0x48, 0x89, 0xe0}},
        {"movzx eax, dil", {0x40, 0x0f, 0xb6, 0xc7}},
        {"shr rax, 26", {0x48, 0xc1, 0xe8, 0x1a}},
        {"cmovne rax, rdi", {0x48, 0x0f, 0x45, 0xc7}},
        {"sete al", {0x0f, 0x94, 0xc0}},
        {"imul rax, rdi", {0x48, 0x0f, 0xaf, 0xc7}},
    };
    for (const Case &c : cases) {
        const auto result = place(c.code + kPushRbp + kRet);
        EXPECT_EQ(result.why, DWUNW_PROBE_MOVED) << c.assembly << ": " << result.reason;
        EXPECT_EQ(result.offset, c.code.size()) << c.assembly;
        EXPECT_EQ(result.emulated, 1U) << c.assembly;
    }
}

TEST(Placement, InstructionsThatAreNotPassedOver) {
    const Case cases[] = {
        // SP
        {"sub rsp, 8", {0x48, 0x83, 0xec, 0x08}},
        {"and rsp, -32", {0x48, 0x83, 0xe4, 0xe0}},
        {"mov rsp, rax", {0x48, 0x89, 0xc4}},
        {"pop rax", {0x58}},
        {"leave", {0xc9}},
        // argument registers, whole and in part
        {"mov rdi, rsi", {0x48, 0x89, 0xf7}},
        {"mov esi, 1", {0xbe, 1, 0, 0, 0}},
        {"xor edx, edx", {0x31, 0xd2}},
        {"mov cl, 1", {0xb1, 1}},
        {"mov dh, 1", {0xb6, 1}},
        {"mov r8, rdi", {0x49, 0x89, 0xf8}},
        {"inc r9d", {0x41, 0xff, 0xc1}},
        {"cmovne rdi, rax", {0x48, 0x0f, 0x45, 0xf8}},
        {"xchg rax, rdi", {0x48, 0x97}},
        {"mul rsi", {0x48, 0xf7, 0xe6}},
        {"cqo", {0x48, 0x99}},
        // what a caller expects kept
        {"mov rbx, rdi", {0x48, 0x89, 0xfb}},
        {"mov rbp, rsp", {0x48, 0x89, 0xe5}},
        {"xor r12d, r12d", {0x45, 0x31, 0xe4}},
        // memory
        {"mov [rsp-8], rdi", {0x48, 0x89, 0x7c, 0x24, 0xf8}},
        {"mov rax, [rdi]", {0x48, 0x8b, 0x07}},
        {"cmp byte [rip+16], 0", {0x80, 0x3d, 16, 0, 0, 0, 0}},
        {"mov rax, fs:[0x28]", {0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0}},
        {"stosb", {0xaa}},
        {"prefetcht0 [rdi]", {0x0f, 0x18, 0x0f}},
        // faults, the system, the unknown
        {"div rsi", {0x48, 0xf7, 0xf6}},
        {"syscall", {0x0f, 0x05}},
        {"int3", {0xcc}},
        {"ud2", {0x0f, 0x0b}},
        {"hlt", {0xf4}},
        {"cpuid", {0x0f, 0xa2}},
        {"rdtsc", {0x0f, 0x31}},
        {"mov ds, eax", {0x8e, 0xd8}},
        {"mov rax, cr0", {0x0f, 0x20, 0xc0}},
        {"movq rax, xmm0", {0x66, 0x48, 0x0f, 0x7e, 0xc0}},
        {"pxor xmm0, xmm0", {0x66, 0x0f, 0xef, 0xc0}},
        {"std", {0xfd}},
        // elsewhere
        {"ret", {0xc3}},
        {"jrcxz +0", {0xe3, 0}},
        {"call rax", {0xff, 0xd0}},
        {"xbegin", {0xc7, 0xf8, 0, 0, 0, 0}},
    };
    for (const Case &c : cases) {
        const auto result = place(c.code + kPushRbp + kRet);
        EXPECT_EQ(result.why, DWUNW_PROBE_NOT_HARMLESS) << c.assembly << ": " << result.reason;
        EXPECT_EQ(result.offset, 0U) << c.assembly;
        EXPECT_EQ(result.emulated, 0U) << c.assembly;
    }
}

TEST(Placement, RegistersOfArgumentsThatTheFunctionDoesNotHaveMayChange) {
    const struct {
        const char *assembly;
        Bytes code;
        uint32_t argument; // its number
    } cases[] = {
        {"mov rdi, rax", {0x48, 0x89, 0xc7}, 1}, {"mov rsi, rax", {0x48, 0x89, 0xc6}, 2},
        {"mov rdx, rax", {0x48, 0x89, 0xc2}, 3}, {"mov rcx, rax", {0x48, 0x89, 0xc1}, 4},
        {"mov r8, rax", {0x49, 0x89, 0xc0}, 5},  {"mov r9, rax", {0x49, 0x89, 0xc1}, 6},
    };
    for (const auto &c : cases) {
        for (uint32_t arguments = 1; arguments <= DWUNW_PROBE_MAX_ARGUMENTS; ++arguments) {
            const auto result = place(c.code + kPushRbp + kRet, arguments);
            EXPECT_EQ(result.offset, c.argument > arguments ? c.code.size() : 0) << c.assembly << " " << arguments;
        }
        EXPECT_EQ(place(c.code + kPushRbp + kRet, 0).offset, 0U) << c.assembly;
    }
}

TEST(Placement, ReasonsAreInWords) {
    const auto moved = place(kTestRdiRdi + Bytes{0x74, 0x01} + kPushRbp + kRet);
    EXPECT_STREQ(moved.reason, "offset 3: jz, emulated; passed over `test rdi, rdi`");
    const auto kept = place({0x80, 0x3d, 16, 0, 0, 0, 0, 0x55, 0xc3});
    EXPECT_STREQ(kept.reason, "offset 0: cmp, single-stepped; `cmp byte ptr [0x17], 0x0` at 0 reads memory");
    const auto entry = place(kPushRbp + kRet);
    EXPECT_STREQ(entry.reason, "offset 0: push, emulated");
}

TEST(Placement, ReasonsThatAreTooLongAreCut) {
    Bytes code;
    for (int i = 0; i < 8; ++i)
        code = code + Bytes{0x48, 0x81, 0xff, 0x44, 0x33, 0x22, 0x11}; // cmp rdi, 0x11223344
    const auto result = place(code + kPushRbp);
    EXPECT_EQ(result.offset, code.size());
    EXPECT_EQ(std::string(result.reason).size(), sizeof(result.reason) - 1);
}

TEST(Placement, TheEntryWhenItIsAsked) {
    const auto result = place(kTestRdiRdi + kPushRbp + kRet, 0, kLinux618, DWUNW_PROBE_AT_ENTRY);
    EXPECT_EQ(result.why, DWUNW_PROBE_ENTRY_WAS_ASKED);
    EXPECT_EQ(result.offset, 0U);
    EXPECT_EQ(result.emulated, 0U);
}

TEST(Placement, NotPastTheFunctionsEnd) {
    EXPECT_EQ(place(kTestRdiRdi).why, DWUNW_PROBE_NONE_EMULATED);
    // An emulated instruction that the function's size cuts off is none.
    EXPECT_EQ(place(kTestRdiRdi + Bytes{0x0f, 0x84, 0, 0}).why, DWUNW_PROBE_CODE_UNCLEAR);
}

TEST(Placement, NotPastTheFirstInstructions) {
    Bytes code;
    for (int i = 0; i < 9; ++i)
        code = code + kTestRdiRdi;
    EXPECT_EQ(place(code + kPushRbp).why, DWUNW_PROBE_NONE_EMULATED);
}

// A branch to the probe's place, or to what it passed over, would be counted, or not, unlike a call. One back to the
// entry runs through both.
TEST(Placement, BranchesBehindTheEntry) {
    // test rdi, rdi; je +0; then a branch back
    const Bytes head = kTestRdiRdi + Bytes{0x74, 0x00};
    const auto with = [&](Bytes opcode, unsigned width, int target) {
        const int distance = target - static_cast<int>(head.size() + opcode.size() + width);
        for (unsigned i = 0; i < width; ++i)
            opcode.push_back(static_cast<uint8_t>(static_cast<uint32_t>(distance) >> (8 * i)));
        return place(head + opcode + kRet);
    };
    const struct {
        const char *assembly;
        Bytes opcode;
        unsigned width;
    } branches[] = {
        {"jmp rel8", {0xeb}, 1}, {"jmp rel32", {0xe9}, 4}, {"jne rel8", {0x75}, 1}, {"jne rel32", {0x0f, 0x85}, 4},
        {"call", {0xe8}, 4},     {"loop", {0xe2}, 1},      {"jrcxz", {0xe3}, 1},    {"xbegin", {0xc7, 0xf8}, 4},
    };
    for (const auto &branch : branches) {
        EXPECT_EQ(with(branch.opcode, branch.width, 0).why, DWUNW_PROBE_MOVED) << branch.assembly;
        for (const int target : {1, 2, 3}) {
            EXPECT_EQ(with(branch.opcode, branch.width, target).why, DWUNW_PROBE_OTHER_WAY_IN)
                << branch.assembly << " to " << target;
        }
        EXPECT_EQ(with(branch.opcode, branch.width, 5).why, DWUNW_PROBE_MOVED) << branch.assembly;
        // The second byte of the je.
        EXPECT_EQ(with(branch.opcode, branch.width, 4).why, DWUNW_PROBE_CODE_UNCLEAR) << branch.assembly;
    }
}

TEST(Placement, CodeThatIsNotUnderstood) {
    const Case cases[] = {
        {"jmp rax", {0xff, 0xe0}},
        {"notrack jmp [rax*8+0]", {0x3e, 0xff, 0x24, 0xc5, 0, 0, 0, 0}},
        {"jmp [rip+16], which no file says is the .got's", {0xff, 0x25, 16, 0, 0, 0}},
        {"no instruction in 64-bit code", {0x06}},
        {"cut off", {0x48}},
    };
    for (const Case &c : cases) {
        const auto result = place(kTestRdiRdi + Bytes{0x74, 0x00} + c.code);
        EXPECT_EQ(result.why, DWUNW_PROBE_CODE_UNCLEAR) << c.assembly << ": " << result.reason;
        EXPECT_EQ(result.offset, 0U) << c.assembly;
    }
    // At the very entry, too.
    EXPECT_EQ(place({0x06, 0x55}).why, DWUNW_PROBE_CODE_UNCLEAR);
    EXPECT_EQ(place(Bytes((4 << 20) + 1, 0x90)).why, DWUNW_PROBE_CODE_UNCLEAR);
}

TEST(Placement, ArgumentsOfTheAbi) {
    dwunw_probe_placement out{};
    out.size = sizeof(out);
    EXPECT_EQ(dwunw_probe_place_code(kRet.data(), 1, nullptr, &out), DWUNW_OK);
    EXPECT_EQ(dwunw_probe_place_code(nullptr, 1, nullptr, &out), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_probe_place_code(kRet.data(), 0, nullptr, &out), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_probe_place_code(kRet.data(), 1, nullptr, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    out.size = 1;
    EXPECT_EQ(dwunw_probe_place_code(kRet.data(), 1, nullptr, &out), DWUNW_ERR_STRUCT_SIZE);
    out.size = sizeof(out);
    for (int field = 0; field < 2; ++field) {
        dwunw_probe_options options{};
        options.size = sizeof(options);
        options.flags = field == 0 ? 1U << 31 : 0;
        options.arguments = field == 1 ? 7 : 0;
        EXPECT_EQ(dwunw_probe_place_code(kRet.data(), 1, &options, &out), DWUNW_ERR_INVALID_ARGUMENT);
    }
}

// No padding: every byte belongs to a field.
static_assert(sizeof(dwunw_probe_options) == 4 * 4);
static_assert(sizeof(dwunw_probe_placement) == 4 + 4 + 8 + 8 + 8 + 4 + 4 + 192);

} // namespace
