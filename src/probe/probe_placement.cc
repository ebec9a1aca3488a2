// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The C ABI of dwunw/probe_placement.h.
#include <dwunw/probe_placement.h>
#include <dwunw/process.h>

#include "abi/guarded.h"
#include "abi/sized_structs.h"
#include "base/kernel_version.h"
#include "probe/function_file.h"
#include "process/file_source.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

struct dwunw_probe_file {
    std::unique_ptr<dwunw::probe::FunctionFile> impl;
};

namespace {

using dwunw::Error;
using dwunw::FileOffset;
using dwunw::LinkAddr;
using dwunw::Result;
using dwunw::probe::FunctionFile;
using Function = dwunw::elf::FunctionSymbols::Function;
using dwunw::probe::Placement;

// A module's image, read through the public interface.
class ModuleImage final : public dwunw::ByteSource {
  public:
    explicit ModuleImage(const dwunw_module *module) : module_(module) {}
    uint64_t size() const override { return dwunw_module_size(module_); }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
        return dwunw_module_read(module_, offset.value, buffer.data(), buffer.size());
    }

  private:
    const dwunw_module *module_;
};

uint32_t running_kernel() {
    utsname names{};
    unsigned major = 0;
    unsigned minor = 0;
    if (uname(&names) != 0 || std::sscanf(names.release, "%u.%u", &major, &minor) != 2)
        return 0; // the oldest kernel: all others emulate what it emulates
    return dwunw::kernel_version(major, minor);
}

using Out = dwunw::Sized<dwunw_probe_placement>;

// The options, with defaults for zero fields.
Result<dwunw_probe_options> checked(const dwunw_probe_options *given, const Out &out) {
    const dwunw::Sized known(given, dwunw::IfNull::kDefaults);
    if (!known)
        return Error{known.status()};
    if (!out)
        return Error{out.status()};
    dwunw_probe_options options = *known;
    constexpr uint32_t kKnown = DWUNW_PROBE_AT_ENTRY | DWUNW_PROBE_SKIP_MODULE_READS;
    if (out->reserved != 0 || (options.flags & ~kKnown) != 0 || options.arguments > DWUNW_PROBE_MAX_ARGUMENTS)
        return Error{DWUNW_ERR_INVALID_ARGUMENT};
    if (options.kernel == 0)
        options.kernel = running_kernel();
    return options;
}

void fill(const Placement &placement, LinkAddr entry, FileOffset file_entry, const Out &out) {
    out->why = placement.why;
    out->offset = placement.offset;
    out->link_address = entry.value + placement.offset;
    out->file_offset = file_entry.value + placement.offset;
    out->emulated = placement.emulated ? 1 : 0;
    const size_t length = std::min(placement.reason.size(), sizeof(out->reason) - 1);
    std::memset(out->reason, 0, sizeof(out->reason));
    std::memcpy(out->reason, placement.reason.data(), length);
}

dwunw_status place_function(const dwunw_probe_file *file, Function function, const dwunw_probe_options &options,
                            const Out &out) {
    const auto placed = file->impl->place(function, options);
    if (!placed)
        return placed.error().status;
    fill(placed->placement, function.start, placed->entry, out);
    return DWUNW_OK;
}

dwunw_status open_file(std::unique_ptr<const dwunw::ByteSource> source, dwunw_probe_file **out) {
    auto impl = FunctionFile::open(std::move(source));
    if (!impl)
        return impl.error().status;
    *out = new dwunw_probe_file{std::move(*impl)};
    return DWUNW_OK;
}

} // namespace

extern "C" dwunw_status dwunw_probe_file_open(const char *path, struct dwunw_probe_file **out) {
    if (path == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] {
        auto source = dwunw::process::FileSource::open(path);
        if (!source)
            return source.error().status;
        return open_file(std::make_unique<dwunw::process::FileSource>(std::move(*source)), out);
    });
}

extern "C" dwunw_status dwunw_probe_file_open_module(const struct dwunw_module *module, struct dwunw_probe_file **out) {
    if (module == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return open_file(std::make_unique<ModuleImage>(module), out); });
}

extern "C" void dwunw_probe_file_close(struct dwunw_probe_file *file) { delete file; }

extern "C" dwunw_status dwunw_probe_place_symbol(const struct dwunw_probe_file *file, const char *symbol,
                                                 const struct dwunw_probe_options *given,
                                                 struct dwunw_probe_placement *given_out) {
    if (file == nullptr || symbol == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const Out out(given_out);
    return dwunw::guarded([&] {
        const auto options = checked(given, out);
        if (!options)
            return options.error().status;
        const auto function = file->impl->symbols().find(symbol);
        if (!function)
            return function.error().status;
        return place_function(file, *function, *options, out);
    });
}

extern "C" dwunw_status dwunw_probe_place_address(const struct dwunw_probe_file *file, uint64_t link_address,
                                                  uint64_t function_size, const struct dwunw_probe_options *given,
                                                  struct dwunw_probe_placement *given_out) {
    if (file == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const Out out(given_out);
    return dwunw::guarded([&] {
        const auto options = checked(given, out);
        if (!options)
            return options.error().status;
        Function function{LinkAddr(link_address), function_size};
        if (function_size == 0)
            function = file->impl->symbols().find(function.start);
        return place_function(file, function, *options, out);
    });
}

extern "C" dwunw_status dwunw_probe_place_code(const void *code, size_t code_size,
                                               const struct dwunw_probe_options *given,
                                               struct dwunw_probe_placement *given_out) {
    if (code == nullptr || code_size == 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const Out out(given_out);
    return dwunw::guarded([&]() -> dwunw_status {
        const auto options = checked(given, out);
        if (!options)
            return options.error().status;
        const std::span bytes(static_cast<const uint8_t *>(code), code_size);
        if (code_size > dwunw::probe::kMaxFunctionBytes) {
            fill(dwunw::probe::place_at_entry(bytes, LinkAddr(), *options, DWUNW_PROBE_CODE_UNCLEAR,
                                              "the function is too large to decode"),
                 LinkAddr(), FileOffset(), out);
            return DWUNW_OK;
        }
        const auto placement = dwunw::probe::place(bytes, LinkAddr(), *options, nullptr);
        if (!placement)
            return placement.error().status;
        fill(*placement, LinkAddr(), FileOffset(), out);
        return DWUNW_OK;
    });
}

extern "C" dwunw_status dwunw_probe_find_returns(const struct dwunw_probe_file *file, uint64_t probe_offset,
                                                 struct dwunw_probe_return *returns, size_t max, size_t *count,
                                                 char *reason, size_t reason_size) {
    if (file == nullptr || count == nullptr || (returns == nullptr && max != 0) ||
        (reason == nullptr && reason_size != 0))
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        const FunctionFile::FileReturns found = file->impl->find_returns(FileOffset(probe_offset));
        if (reason_size != 0)
            std::snprintf(reason, reason_size, "%s", found.unknown.c_str());
        *count = found.returns.size();
        std::copy_n(found.returns.begin(), std::min(max, *count), returns);
        return found.unknown.empty() ? DWUNW_OK : DWUNW_ERR_NOT_FOUND;
    });
}
