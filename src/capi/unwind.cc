// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include "abi/handles.h"
#include "arch/arch.h"
#include "process/recent_page.h"

namespace dwunw::capi {
namespace {

constexpr uint32_t kKnownOptions = DWUNW_UNWIND_READ_PROCESS | DWUNW_UNWIND_CFI_ONLY;

bool valid(const dwunw_unwind_request &request) {
    return (request.options & ~kKnownOptions) == 0 && request.process != nullptr &&
           (request.stack != nullptr || request.stack_size == 0) &&
           (request.pending_returns != nullptr || request.pending_return_count == 0) && request.frames != nullptr &&
           request.max_frames > 0;
}

dwunw_status capture(const dwunw_unwind_request &request, const dwunw_regset &regs, size_t *written) {
    const arch::Arch *arch = arch::find_by_id(regs.arch);
    if (arch == nullptr)
        return DWUNW_ERR_UNSUPPORTED_ARCH;
    const unwind::Registers registers(std::span(regs.regs).first<dwarf::kTrackedRegisters>(), regs.valid);
    if (!registers.known(arch->sp) || !registers.known(arch->pc))
        return DWUNW_ERR_INVALID_ARGUMENT;

    unwind::StackMemory memory(RunAddr(request.stack_addr),
                               {static_cast<const uint8_t *>(request.stack), request.stack_size});
    memory.add_reader({request.read_memory, request.memory_arg});
    process::RecentPage page(dwunw_process_read_memory, request.process);
    if ((request.options & DWUNW_UNWIND_READ_PROCESS) != 0)
        memory.add_reader({process::RecentPage::read, &page});

    dwunw_process &process = *request.process;
    process::View view(*process.impl);
    const unwind::WalkResult result = unwind::walk({
        .space = view,
        .arch = *arch,
        .registers = registers,
        .memory = memory,
        .pending_returns = {request.pending_returns, request.pending_return_count},
        .frames = {request.frames, request.max_frames},
        .cfi_only = (request.options & DWUNW_UNWIND_CFI_ONLY) != 0,
    });
    *written = result.written;
    process.counters[view.seat()].add(result, view.seat() != process::Process::kSeats);
    return result.status;
}

} // namespace
} // namespace dwunw::capi

extern "C" dwunw_status dwunw_capture(struct dwunw_context *context, const struct dwunw_unwind_request *given,
                                      size_t *written) {
    if (written == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    *written = 0;
    const dwunw::Sized request(given);
    if (!request)
        return request.status();
    const dwunw::Sized regs(request->regs);
    if (!regs)
        return regs.status();
    if (context == nullptr || !dwunw::capi::valid(*request) || request->process->context != context)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return dwunw::capi::capture(*request, *regs, written); });
}
