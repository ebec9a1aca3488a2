// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "arch/x86_64/arch.h"

#include <dwunw/unwind.h>

// Only for EM_X86_64.
#include <elf.h>

#include <array>

namespace dwunw::arch::x86_64 {
namespace {

constexpr std::array<const char *, kRegisterCount> kNames = {"rax", "rdx", "rcx", "rbx", "rsi", "rdi",
                                                             "rbp", "rsp", "r8",  "r9",  "r10", "r11",
                                                             "r12", "r13", "r14", "r15", "rip"};

// mov $15, %rax; syscall: what sa_restorer points at. gdb and libgcc look for the same nine bytes.
constexpr std::array<uint8_t, 9> kSignalTrampoline = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};

// At the trampoline SP points at the ucontext_t (the handler's ret has popped pretcode); uc_mcontext is at offset 40
// and begins r8–r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip (Linux, arch/x86 struct sigcontext_64).
constexpr std::array<SavedRegister, kRegisterCount> kSignalFrame = {{
    {kR8, 40},
    {kR9, 48},
    {kR10, 56},
    {kR11, 64},
    {kR12, 72},
    {kR13, 80},
    {kR14, 88},
    {kR15, 96},
    {kRdi, 104},
    {kRsi, 112},
    {kRbp, 120},
    {kRbx, 128},
    {kRdx, 136},
    {kRax, 144},
    {kRcx, 152},
    {kRsp, 160},
    {kRip, 168},
}};

// mov %rbx, %rsp; mov (%rsp), %rdi; test %rdi, %rdi: glibc's __start_context. Its rows do not say that it changes SP.
constexpr std::array<uint8_t, 10> kContextEnd = {0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff};

constexpr uint64_t bit(Register reg) { return uint64_t{1} << reg; }

} // namespace

const Arch kArch = {
    .id = DWUNW_ARCH_X86_64,
    .machine = EM_X86_64,
    .register_count = kRegisterCount,
    .sp = kStackPointer,
    .fp = kFramePointer,
    .ra = kReturnAddress,
    .pc = kProgramCounter,
    .preserved = bit(kRbx) | bit(kRbp) | bit(kR12) | bit(kR13) | bit(kR14) | bit(kR15), // psABI §3.2.1
    .names = kNames.data(),
    .max_call_length = 7,
    .ends_in_call = ends_in_call,
    .call_targets = call_targets,
    .call_context = 2,
    .is_jump_stub = is_jump_stub,
    .kernel_code_start = 0xffffffffff600000, // [vsyscall]
    .kernel_code_size = 0x1000,
    .leaves_alone = leaves_alone,
    .follow = follow,
    .result = kRax,
    .find_sp_replacement = find_sp_replacement,
    .find_lost_sp = find_lost_sp,
    .direct_call = direct_call,
    .frame_begins = frame_begins,
    .decode = decode,
    .max_instruction_length = kMaxInstructionLength,
    .stack_alignment = 16, // psABI §3.2.2: (%rsp + 8) is a multiple of 16 at the entry
    .entry_misalignment = 8,
    .context_end = kContextEnd,
    .signal_trampoline = kSignalTrampoline,
    .signal_trampoline_syscall = 7,
    .signal_frame = kSignalFrame,
};

} // namespace dwunw::arch::x86_64
