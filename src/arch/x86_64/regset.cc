// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Register sets from the kernel's and the C library's forms. These functions run in signal handlers: no allocation, no
// lock, no errno.
#include <dwunw/unwind.h>

#include "arch/kernel_registers.h"
#include "arch/x86_64/register_orders.h"

#include <cstring>

namespace {

namespace x86_64 = dwunw::arch::x86_64;

// Every version of these functions fills this many registers. A caller need not set `size` before, so a struct that
// grows must not be written further than an older caller has it.
constexpr size_t kFilledRegisters = 34;
static_assert(sizeof(dwunw_regset) == 16 + kFilledRegisters * sizeof(uint64_t));

void begin(dwunw_regset *out) {
    *out = {};
    out->size = sizeof(*out);
    out->arch = DWUNW_ARCH_X86_64;
}

void set(dwunw_regset *out, uint8_t reg, uint64_t value) {
    if (reg == x86_64::kNone)
        return;
    out->regs[reg] = value;
    out->valid |= uint64_t{1} << reg;
}

} // namespace

extern "C" void dwunw_regset_from_x86_64_pt_regs(struct dwunw_regset *out,
                                                 const uint64_t pt_regs[DWUNW_X86_64_PT_REGS]) {
    *out = dwunw::arch::regset_of({pt_regs, DWUNW_X86_64_PT_REGS});
}

extern "C" void dwunw_regset_from_x86_64_signal_context(struct dwunw_regset *out, const void *ucontext) {
    begin(out);
    std::array<uint64_t, x86_64::kSignalRegs.size()> values;
    std::memcpy(values.data(), static_cast<const char *>(ucontext) + x86_64::kSignalRegsOffset, sizeof(values));
    for (size_t i = 0; i < values.size(); ++i)
        set(out, x86_64::kSignalRegs[i], values[i]);
}

extern "C" void dwunw_regset_from_x86_64_getcontext(struct dwunw_regset *out, const void *ucontext) {
    dwunw_regset all;
    dwunw_regset_from_x86_64_signal_context(&all, ucontext);
    begin(out);
    for (const uint8_t reg : x86_64::kKeptByCalls)
        set(out, reg, all.regs[reg]);
}

extern "C" void dwunw_regset_from_x86_64_perf_regs(struct dwunw_regset *out, uint64_t mask, const uint64_t *regs) {
    begin(out);
    for (size_t bit = 0; bit < x86_64::kPerfRegs.size(); ++bit) {
        if (((mask >> bit) & 1) != 0)
            set(out, x86_64::kPerfRegs[bit], *regs++);
    }
}
