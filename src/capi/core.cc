// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/core.h>

#include "abi/handles.h"
#include "core/target.h"
#include "core/write.h"

#include <cerrno>
#include <cstring>

using dwunw::core::CoreFile;
using dwunw::core::CoreTarget;

struct dwunw_core {
    std::shared_ptr<const CoreTarget> target;
    dwunw_process process;
};

namespace {

dwunw_status open_core(dwunw_context *context, const dwunw_core_options &options, dwunw_core **out) {
    auto source = dwunw::process::FileSource::open(options.path);
    if (!source)
        return source.error().status;
    auto file = CoreFile::parse(std::make_shared<const dwunw::process::FileSource>(std::move(*source)));
    if (!file)
        return file.error().status;
    auto core = std::make_unique<dwunw_core>();
    core->target = std::make_shared<const CoreTarget>(std::move(*file), options.exe != nullptr ? options.exe : "",
                                                      options.sysroot != nullptr ? options.sysroot : "");
    auto impl = dwunw::process::Process::open(context->modules, core->target, core->target->maps());
    if (!impl)
        return impl.error().status;
    core->process.context = context;
    core->process.impl = std::move(*impl);
    *out = core.release();
    return DWUNW_OK;
}

} // namespace

extern "C" dwunw_status dwunw_core_open(struct dwunw_context *context, const struct dwunw_core_options *given,
                                        struct dwunw_core **out) {
    const dwunw::Sized options(given);
    if (!options)
        return options.status();
    if (context == nullptr || options->reserved != 0 || options->path == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return open_core(context, *options, out); });
}

extern "C" void dwunw_core_close(struct dwunw_core *core) { delete core; }

extern "C" struct dwunw_process *dwunw_core_process(struct dwunw_core *core) {
    return core != nullptr ? &core->process : nullptr;
}

extern "C" int32_t dwunw_core_pid(const struct dwunw_core *core) {
    return core != nullptr ? core->target->core().pid() : 0;
}

extern "C" const char *dwunw_core_name(const struct dwunw_core *core) {
    return core != nullptr ? core->target->core().name().c_str() : "";
}

extern "C" size_t dwunw_core_thread_count(const struct dwunw_core *core) {
    return core != nullptr ? core->target->core().threads().size() : 0;
}

extern "C" dwunw_status dwunw_core_thread(const struct dwunw_core *core, size_t index, struct dwunw_thread *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (core == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const CoreFile &file = core->target->core();
    if (index >= file.threads().size())
        return DWUNW_ERR_NOT_FOUND;
    const CoreFile::Thread &thread = file.threads()[index];
    out->tid = thread.tid;
    std::memset(out->name, 0, sizeof(out->name));
    // A core names only the process; that is the main thread's name.
    if (thread.tid == file.pid())
        std::memcpy(out->name, file.name().data(), std::min(file.name().size(), sizeof(out->name) - 1));
    out->regs = dwunw::arch::regset_of(thread.registers);
    return DWUNW_OK;
}

extern "C" size_t dwunw_core_read_memory(void *arg, uint64_t address, void *buffer, size_t length) {
    if (arg == nullptr)
        return 0;
    return dwunw_process_read_memory(&static_cast<dwunw_core *>(arg)->process, address, buffer, length);
}

extern "C" dwunw_status dwunw_core_write(struct dwunw_process *process, struct dwunw_stopped *stopped,
                                         const struct dwunw_core_write_options *given, int fd) {
    const dwunw::Sized options(given);
    if (!options)
        return options.status();
    if (process == nullptr || stopped == nullptr || options->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] {
        const auto status = dwunw::core::write_core(*process->impl, *stopped->impl, options->stack_bytes, fd);
        if (status.status() == DWUNW_ERR_WRITE)
            errno = static_cast<int>(status.error().value);
        return status.status();
    });
}
