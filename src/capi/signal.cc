// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/signal.h>

#include "abi/handles.h"
#include "arch/arch.h"
#include "process/held_tables.h"
#include "unwind/table_walk.h"

#include <cerrno>

struct dwunw_signal_tables {
    dwunw_process *process;
    std::unique_ptr<const dwunw::process::HeldTables> impl;
};

namespace {

bool valid(const dwunw_unwind_request &request) {
    return request.options == 0 && (request.stack != nullptr || request.stack_size == 0) &&
           request.read_memory == nullptr && request.pending_return_count == 0 && request.frames != nullptr &&
           request.max_frames > 0;
}

} // namespace

extern "C" dwunw_status dwunw_signal_tables_open(struct dwunw_process *process, struct dwunw_signal_tables **out) {
    if (process == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        auto impl = dwunw::process::HeldTables::of(*process->impl);
        if (!impl)
            return impl.error().status;
        *out = new dwunw_signal_tables{process, std::move(*impl)};
        return DWUNW_OK;
    });
}

// Everything from here on runs in signal handlers.
extern "C" dwunw_status dwunw_signal_capture(const struct dwunw_signal_tables *tables,
                                             const struct dwunw_unwind_request *given, size_t *written) {
    if (written == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    *written = 0;
    const dwunw::Sized request(given);
    if (!request)
        return request.status();
    const dwunw::Sized regs(request->regs);
    if (!regs)
        return regs.status();
    if (tables == nullptr || !valid(*request) || request->process != tables->process)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const dwunw::arch::Arch *arch = dwunw::arch::find_by_id(regs->arch);
    if (arch == nullptr)
        return DWUNW_ERR_UNSUPPORTED_ARCH;
    const dwunw::unwind::Registers registers(std::span(regs->regs).first<dwunw::dwarf::kTrackedRegisters>(),
                                             regs->valid);
    if (!registers.known(arch->sp) || !registers.known(arch->pc))
        return DWUNW_ERR_INVALID_ARGUMENT;

    const int saved_errno = errno;
    const dwunw::unwind::StackMemory memory(dwunw::RunAddr(request->stack_addr),
                                            {static_cast<const uint8_t *>(request->stack), request->stack_size});
    const auto result = dwunw::unwind::walk_by_tables({.space = *tables->impl,
                                                       .arch = *arch,
                                                       .registers = registers,
                                                       .memory = memory,
                                                       .frames = {request->frames, request->max_frames}});
    tables->process->counters[dwunw::process::Process::kSeats].add(result, false);
    *written = result.written;
    errno = saved_errno;
    return result.status;
}

extern "C" void dwunw_signal_tables_close(struct dwunw_signal_tables *tables) { delete tables; }
