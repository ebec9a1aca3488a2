// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/process.h>

#include "abi/handles.h"
#include "arch/kernel_registers.h"
#include "unwind/frame_chain.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>

using dwunw::FileOffset;
using dwunw::RunAddr;

extern "C" dwunw_status dwunw_process_open(struct dwunw_context *context, const struct dwunw_process_options *options,
                                           struct dwunw_process **out) {
    const dwunw::Sized given(options);
    if (!given)
        return given.status();
    if (context == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        std::optional<std::string_view> maps;
        if (given->maps != nullptr)
            maps = given->maps;
        dwunw::process::FilePlaces places;
        if (given->exe != nullptr)
            places.exe = given->exe;
        if (given->sysroot != nullptr)
            places.sysroot = given->sysroot;
        auto impl = dwunw::process::Process::open(context->modules, given->pid, maps, std::move(places));
        if (!impl) {
            if (impl.error().status == DWUNW_ERR_MAPS_MALFORMED && given->maps_error_line != nullptr)
                *given->maps_error_line = impl.error().value;
            return impl.error().status;
        }
        auto process = std::make_unique<dwunw_process>();
        process->context = context;
        process->impl = std::move(*impl);
        *out = process.release();
        return DWUNW_OK;
    });
}

extern "C" dwunw_status dwunw_process_refresh(struct dwunw_process *process) {
    if (process == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return process->impl->refresh().status(); });
}

extern "C" void dwunw_process_close(struct dwunw_process *process) { delete process; }

extern "C" dwunw_status dwunw_process_find_module(struct dwunw_process *process, uint64_t address,
                                                  const struct dwunw_module **module, uint64_t *link_address) {
    if (process == nullptr || module == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        auto found = process->impl->find_module(RunAddr(address));
        if (!found)
            return found.error().status;
        *module = found->module;
        if (link_address != nullptr)
            *link_address = found->address.value;
        return DWUNW_OK;
    });
}

extern "C" dwunw_status dwunw_process_check_frame_chain(struct dwunw_process *process, const uint64_t *addresses,
                                                        size_t count, struct dwunw_frame *frames, size_t *certain) {
    if (certain == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    *certain = 0;
    if (process == nullptr || addresses == nullptr || frames == nullptr || count == 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        dwunw::process::View view(*process->impl);
        auto checked =
            dwunw::unwind::check_frame_chain(dwunw::arch::selected::kArch, view, {addresses, count}, {frames, count});
        if (!checked)
            return checked.error().status;
        *certain = *checked;
        return DWUNW_OK;
    });
}

extern "C" const char *dwunw_module_path(const struct dwunw_module *module) {
    return module != nullptr ? module->path.c_str() : "";
}

extern "C" size_t dwunw_module_build_id(const struct dwunw_module *module, const uint8_t **bytes) {
    if (module == nullptr || bytes == nullptr || module->file == nullptr)
        return 0;
    const auto &image = module->file->image();
    if (!image)
        return 0;
    *bytes = image->build_id().data();
    return image->build_id().size();
}

extern "C" uint64_t dwunw_module_size(const struct dwunw_module *module) {
    return module != nullptr && module->file != nullptr ? module->file->source().size() : 0;
}

extern "C" size_t dwunw_module_read(const struct dwunw_module *module, uint64_t offset, void *buffer, size_t length) {
    if (module == nullptr || module->file == nullptr || buffer == nullptr)
        return 0;
    return module->file->source().read(FileOffset(offset), {static_cast<uint8_t *>(buffer), length});
}

extern "C" int dwunw_module_fd(const struct dwunw_module *module) {
    return module != nullptr && module->file != nullptr ? module->file->fd() : -1;
}

extern "C" dwunw_status dwunw_process_get_counters(const struct dwunw_process *process,
                                                   struct dwunw_process_counters *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (process == nullptr || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    out.clear();
    for (const dwunw::abi::Counters &counters : process->counters)
        counters.add_to(*out);
    out->map_reads = process->impl->map_reads();
    out->modules_failed = process->impl->modules_failed();
    return DWUNW_OK;
}

extern "C" size_t dwunw_process_read_memory(void *arg, uint64_t address, void *buffer, size_t length) {
    if (arg == nullptr || buffer == nullptr)
        return 0;
    const auto *process = static_cast<dwunw_process *>(arg);
    return process->impl->read_memory(RunAddr(address), {static_cast<uint8_t *>(buffer), length});
}

extern "C" dwunw_status dwunw_process_stop(struct dwunw_process *process, struct dwunw_stopped **out) {
    const auto patience = static_cast<uint64_t>(dwunw::process::StoppedThreads::kPatience.count());
    struct dwunw_stopped *stopped = nullptr;
    if (const dwunw_status status = dwunw_process_stop_threads(process, patience, out != nullptr ? &stopped : nullptr);
        status != DWUNW_OK)
        return status;
    // The map may have changed since it was read. The process is stopped now, so read it again.
    if (const dwunw_status status = dwunw_process_refresh(process); status != DWUNW_OK) {
        dwunw_process_resume(stopped);
        return status;
    }
    *out = stopped;
    return DWUNW_OK;
}

extern "C" dwunw_status dwunw_process_stop_threads(struct dwunw_process *process, uint64_t patience,
                                                   struct dwunw_stopped **out) {
    // A longer patience counts as a day, so that adding it to a time cannot overflow.
    constexpr std::chrono::nanoseconds kLongest = std::chrono::hours(24);
    if (process == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        auto stopped = std::make_unique<dwunw_stopped>();
        auto impl =
            process->impl->stop(std::chrono::nanoseconds(std::min(patience, static_cast<uint64_t>(kLongest.count()))));
        if (!impl)
            return impl.error().status;
        stopped->impl = std::move(*impl);
        *out = stopped.release();
        return DWUNW_OK;
    });
}

extern "C" size_t dwunw_stopped_thread_count(const struct dwunw_stopped *stopped) {
    return stopped != nullptr ? stopped->impl->threads().size() : 0;
}

extern "C" dwunw_status dwunw_stopped_thread(const struct dwunw_stopped *stopped, size_t index,
                                             struct dwunw_thread *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (stopped == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const auto &threads = stopped->impl->threads();
    if (index >= threads.size())
        return DWUNW_ERR_NOT_FOUND;
    const dwunw::process::StoppedThread &thread = threads[index];
    out->tid = thread.tid;
    const size_t length = std::min(thread.name.size(), sizeof(out->name) - 1);
    std::memset(out->name, 0, sizeof(out->name));
    std::memcpy(out->name, thread.name.data(), length);
    if (thread.status != DWUNW_OK)
        return thread.status;
    out->regs = dwunw::arch::regset_of(thread.registers);
    return DWUNW_OK;
}

extern "C" void dwunw_process_resume(struct dwunw_stopped *stopped) { delete stopped; }
