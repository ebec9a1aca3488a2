// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares the description of x86-64 with this machine: its compiler's calls, its kernel's signal frames.
#include "arch/x86_64/arch.h"

#include "support/cfi_bytes.h"

#include <dwunw/unwind.h>

#include <gtest/gtest.h>

#include <elf.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <set>
#include <string>

namespace dwunw::arch {
namespace {

using testing::Bytes;

bool call(const Bytes &code) { return x86_64::kArch.ends_in_call(code.data()); }

TEST(Arch, IsFoundByMachineAndById) {
    const Arch *arch = find_by_machine(EM_X86_64);
    ASSERT_NE(arch, nullptr);
    EXPECT_EQ(arch, find_by_id(DWUNW_ARCH_X86_64));
    EXPECT_EQ(arch->machine, EM_X86_64);
    for (const uint16_t machine : {EM_NONE, EM_386, EM_AARCH64})
        EXPECT_EQ(find_by_machine(machine), nullptr) << machine;
    EXPECT_EQ(find_by_id(0), nullptr);
    EXPECT_EQ(find_by_id(~0u), nullptr);
}

TEST(X86_64, RegistersAreThePsabis) {
    const Arch &arch = x86_64::kArch;
    const std::vector<std::string> names(arch.names, arch.names + arch.register_count);
    EXPECT_EQ(names, (std::vector<std::string>{"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9",
                                               "r10", "r11", "r12", "r13", "r14", "r15", "rip"}));
    EXPECT_EQ(names[arch.sp], "rsp");
    EXPECT_EQ(names[arch.fp], "rbp");
    EXPECT_EQ(names[arch.ra], "rip");
    std::set<std::string> preserved;
    for (size_t reg = 0; reg < 64; ++reg)
        if ((arch.preserved >> reg & 1) != 0)
            preserved.insert(names.at(reg));
    EXPECT_EQ(preserved, (std::set<std::string>{"rbx", "rbp", "r12", "r13", "r14", "r15"}));
}

std::vector<CodeTarget> targets(const Bytes &code) {
    std::array<CodeTarget, kMaxCallTargets> out;
    const size_t count = x86_64::kArch.call_targets(code.data(), out);
    return {out.begin(), out.begin() + static_cast<ptrdiff_t>(count)};
}

void expect_register(const Bytes &code, size_t which, uint8_t reg) {
    const auto found = targets(code);
    ASSERT_LT(which, found.size());
    EXPECT_EQ(found[which].kind, CodeTarget::Kind::kRegister);
    EXPECT_EQ(found[which].base, reg);
}

void expect_memory(const Bytes &code, size_t which, uint8_t base, uint8_t index, unsigned scale, int64_t displacement,
                   bool from_end = false) {
    const auto found = targets(code);
    ASSERT_LT(which, found.size());
    EXPECT_EQ(found[which].kind, CodeTarget::Kind::kMemory);
    EXPECT_EQ(found[which].base, base);
    EXPECT_EQ(found[which].index, index);
    EXPECT_EQ(found[which].scale, scale);
    EXPECT_EQ(found[which].displacement, displacement);
    EXPECT_EQ(found[which].from_end, from_end);
}

TEST(X86_64, TargetsOfACall) {
    using namespace x86_64;
    constexpr uint8_t kNobody = CodeTarget::kNone;
    EXPECT_TRUE(targets({}).empty());
    EXPECT_TRUE(targets({0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}).empty());
    const auto direct = targets({0xe8, 0xf0, 0xff, 0xff, 0xff});
    ASSERT_EQ(direct.size(), 1u);
    EXPECT_EQ(direct[0].kind, CodeTarget::Kind::kAddress);
    EXPECT_EQ(direct[0].displacement, -16);

    expect_register({0xff, 0xd0}, 0, kRax);
    expect_register({0xff, 0xd7}, 0, kRdi);
    expect_register({0x90, 0xff, 0xd3}, 0, kRbx);
    // The byte before may be a prefix: call *%r11, or the end of something else and call *%rbx.
    EXPECT_EQ(targets({0x41, 0xff, 0xd3}).size(), 2u);
    expect_register({0x41, 0xff, 0xd3}, 0, kRbx);
    expect_register({0x41, 0xff, 0xd3}, 1, kR11);

    expect_memory({0xff, 0x10}, 0, kRax, kNobody, 1, 0);
    expect_memory({0xff, 0x55, 0xf8}, 0, kRbp, kNobody, 1, -8);
    expect_memory({0xff, 0x90, 0x00, 0x01, 0x00, 0x00}, 0, kRax, kNobody, 1, 256);
    expect_memory({0xff, 0x15, 0x10, 0x00, 0x00, 0x00}, 0, kNobody, kNobody, 1, 16, true);
    expect_memory({0xff, 0x14, 0x24}, 0, kRsp, kNobody, 1, 0);
    expect_memory({0xff, 0x54, 0xc8, 0x10}, 0, kRax, kRcx, 8, 16);
    expect_memory({0xff, 0x14, 0xc5, 0x00, 0x10, 0x00, 0x00}, 0, kNobody, kRax, 8, 4096);
    expect_memory({0x43, 0xff, 0x54, 0xc8, 0x10}, 1, kR8, kR9, 8, 16);
    expect_memory({0x42, 0xff, 0x14, 0x20}, 1, kRax, kR12, 1, 0); // an index of r12, which 4 without a prefix is not
    // fs and gs begin somewhere else.
    EXPECT_EQ(targets({0x64, 0xff, 0x14, 0x25, 0x10, 0, 0, 0}).at(0).kind, CodeTarget::Kind::kElsewhere);
    EXPECT_EQ(targets({0x65, 0x41, 0xff, 0x10}).at(1).kind, CodeTarget::Kind::kElsewhere);
}

TEST(X86_64, StubsThatJump) {
    const auto length_of = [](const Bytes &code) -> std::optional<size_t> {
        CodeTarget target;
        size_t length = 0;
        if (!x86_64::kArch.is_jump_stub(code.data(), target, length))
            return std::nullopt;
        EXPECT_EQ(target.kind, CodeTarget::Kind::kMemory);
        EXPECT_TRUE(target.from_end);
        EXPECT_EQ(target.displacement, 0x2fe0);
        return length;
    };
    EXPECT_EQ(length_of({0xff, 0x25, 0xe0, 0x2f, 0, 0}), 6u);
    EXPECT_EQ(length_of({0xf2, 0xff, 0x25, 0xe0, 0x2f, 0, 0}), 7u);
    EXPECT_EQ(length_of({0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0xe0, 0x2f, 0, 0}), 10u);
    EXPECT_EQ(length_of({0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0xe0, 0x2f, 0, 0}), 11u);
    EXPECT_FALSE(length_of({0xff, 0x25, 0xe0, 0x2f, 0}));
    EXPECT_FALSE(length_of({0x90, 0xff, 0x25, 0xe0, 0x2f, 0, 0}));
    EXPECT_FALSE(length_of({0xff, 0x15, 0xe0, 0x2f, 0, 0}));
    EXPECT_FALSE(length_of({}));
}

TEST(X86_64, EveryFormOfCall) {
    const std::vector<Bytes> calls = {
        {0xe8, 0, 0, 0, 0},                         // call   rel32
        {0xe8, 0xff, 0xff, 0xff, 0xff},             //
        {0xff, 0xd0},                               // call   *%rax
        {0x41, 0xff, 0xd7},                         // call   *%r15
        {0xff, 0x13},                               // call   *(%rbx)
        {0xff, 0x14, 0x24},                         // call   *(%rsp)
        {0xff, 0x55, 0x00},                         // call   *0(%rbp)
        {0x41, 0xff, 0x54, 0x24, 0x18},             // call   *24(%r12)
        {0xff, 0x90, 0x00, 0x01, 0x00, 0x00},       // call   *256(%rax)
        {0xff, 0x94, 0x24, 0x00, 0x01, 0x00, 0x00}, // call   *256(%rsp)
        {0xff, 0x15, 0x78, 0x56, 0x34, 0x12},       // call   *sym@GOTPCREL(%rip)
        {0xff, 0x14, 0x25, 0x00, 0x10, 0x00, 0x00}, // call   *0x1000
        {0xff, 0x14, 0xc5, 0x00, 0x10, 0x00, 0x00}, // call   *0x1000(,%rax,8)
        {0x3e, 0xff, 0xd2},                         // notrack call *%rdx
        {0xf2, 0xe8, 0, 0, 0, 0},                   // bnd call rel32
        {0x66, 0x66, 0x48, 0xe8, 0, 0, 0, 0},       // data16 rex.W call __tls_get_addr
        {0x67, 0xe8, 0, 0, 0, 0},                   // addr32 call: a relaxed *sym@GOTPCREL(%rip)
    };
    for (size_t i = 0; i < calls.size(); ++i) {
        EXPECT_TRUE(call(calls[i])) << i;
        EXPECT_TRUE(call(Bytes({0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}).add(calls[i]))) << i;
        EXPECT_FALSE(call(Bytes(calls[i]).u8(0x90))) << i;
    }
}

// How many bytes follow ModRM and SIB: SDM volume 2, tables 2-2 and 2-3.
size_t displacement(unsigned mod, unsigned rm, unsigned base) {
    switch (mod) {
    case 0:
        return rm == 5 || (rm == 4 && base == 5) ? 4 : 0;
    case 1:
        return 1;
    case 2:
        return 4;
    default:
        return 0;
    }
}

TEST(X86_64, EveryOperandOfAnIndirectCall) {
    size_t longest = 0;
    for (unsigned mod = 0; mod < 4; ++mod)
        for (unsigned rm = 0; rm < 8; ++rm)
            for (unsigned sib = 0; sib < 256; ++sib) {
                const bool has_sib = mod != 3 && rm == 4;
                if (!has_sib && sib != 0)
                    continue;
                for (unsigned operation = 0; operation < 8; ++operation) {
                    Bytes code = Bytes().u8(0xff).u8(mod << 6 | operation << 3 | rm);
                    if (has_sib)
                        code.u8(sib);
                    for (size_t left = displacement(mod, rm, sib & 7); left > 0; --left)
                        code.u8(0x90);
                    longest = std::max(longest, code.size());
                    // A SIB of E8 before four bytes reads as a call too: bytes alone cannot tell.
                    if (sib == 0xe8 && code.size() == 7 && operation != 2)
                        continue;
                    // Only /2 calls: the others are inc, dec, a far call, jmp, a far jmp and push.
                    EXPECT_EQ(call(code), operation == 2) << mod << " " << operation << " " << rm << " " << sib;
                }
            }
    EXPECT_EQ(longest, x86_64::kArch.max_call_length);
}

TEST(X86_64, BytesThatAreNotACall) {
    const std::vector<Bytes> others = {
        {},
        {0xe8},
        {0xff},
        {0xd0},
        {0xe8, 0, 0, 0},             // cut
        {0xe9, 0, 0, 0, 0},          // jmp rel32
        {0xeb, 0xff},                // jmp rel8
        {0xff, 0xe0},                // jmp *%rax
        {0xff, 0x25, 0, 0, 0, 0},    // jmp *sym(%rip): a PLT entry
        {0xff, 0x35, 0, 0, 0, 0},    // push sym(%rip): PLT 0
        {0xff, 0x14},                // its SIB is missing
        {0xff, 0x14, 0x25},          // its displacement is missing
        {0xff, 0x15, 0, 0, 0},       // cut
        {0xe8, 0, 0, 0, 0, 0xc3},    // ret
        {0xc3, 0xcc, 0xcc, 0xcc},    // between functions
        {0x0f, 0x1f, 0x44, 0, 0},    // nopl
        {0x0f, 0x05},                // syscall
        {0xf3, 0x0f, 0x1e, 0xfa},    // endbr64
        {0, 0, 0, 0, 0, 0, 0, 0, 0}, // data
    };
    for (size_t i = 0; i < others.size(); ++i)
        EXPECT_FALSE(call(others[i])) << i;
}

[[gnu::noinline]] const uint8_t *returns_to() { return static_cast<const uint8_t *>(__builtin_return_address(0)); }

struct Base {
    virtual ~Base() = default;
    virtual const uint8_t *returns_to_virtual() const = 0;
};
struct Derived final : Base {
    [[gnu::noinline]] const uint8_t *returns_to_virtual() const override {
        return static_cast<const uint8_t *>(__builtin_return_address(0));
    }
};

TEST(X86_64, CallsOfThisCompiler) {
    const uint8_t *(*volatile pointer)() = returns_to;
    const Derived derived;
    const Base *volatile object = &derived;
    for (const uint8_t *address : {returns_to(), pointer(), object->returns_to_virtual()})
        EXPECT_TRUE(x86_64::ends_in_call({address - x86_64::kArch.max_call_length, x86_64::kArch.max_call_length}));
}

// Seen by the handler.
const uint8_t *g_trampoline;
const void *g_sp_at_trampoline;
const void *g_context;

void on_signal(int, siginfo_t *, void *context) {
    g_trampoline = static_cast<const uint8_t *>(__builtin_return_address(0));
    g_sp_at_trampoline = __builtin_dwarf_cfa();
    g_context = context;
}

TEST(X86_64, TheKernelsSignalFrame) {
    const Arch &arch = x86_64::kArch;
    struct sigaction action {};
    struct sigaction old {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO;
    ASSERT_EQ(sigaction(SIGUSR1, &action, &old), 0);
    ASSERT_EQ(raise(SIGUSR1), 0);
    ASSERT_EQ(sigaction(SIGUSR1, &old, nullptr), 0);
    EXPECT_TRUE(std::equal(arch.signal_trampoline.begin(), arch.signal_trampoline.end(), g_trampoline));
    EXPECT_EQ(g_sp_at_trampoline, g_context);

    // <sys/ucontext.h>'s order, by the psABI's numbers.
    constexpr auto kOrder =
        std::to_array<uint8_t>({REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9,
                                REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP});
    std::set<uint8_t> seen;
    for (const SavedRegister &saved : arch.signal_frame) {
        EXPECT_TRUE(seen.insert(saved.reg).second);
        EXPECT_EQ(saved.sp_offset, offsetof(ucontext_t, uc_mcontext.gregs) + sizeof(greg_t) * kOrder.at(saved.reg))
            << arch.names[saved.reg];
    }
    EXPECT_EQ(seen.size(), size_t{arch.register_count});
}

} // namespace
} // namespace dwunw::arch
