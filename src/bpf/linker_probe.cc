// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/linker_probe.h"

#include "elf/function_symbols.h"

#include <bpf/libbpf.h>

namespace dwunw::bpf {

std::optional<LinkerProbe> LinkerProbe::prepare(bpf_program *program) {
    const bool multi = probe_multi(MultiType::kUprobeMulti) == 0;
    const uint32_t type = multi ? static_cast<uint32_t>(MultiType::kUprobeMulti) : 0;
    if (program == nullptr || bpf_program__set_expected_attach_type(program, static_cast<bpf_attach_type>(type)) != 0)
        return std::nullopt;
    return LinkerProbe(program, multi);
}

std::optional<FileOffset> LinkerProbe::find_entry(const process::Module &linker) {
    const auto &image = linker.image();
    if (!image)
        return std::nullopt;
    const auto symbols = elf::FunctionSymbols::read(*image, linker.source());
    if (!symbols)
        return std::nullopt;
    const auto function = symbols->find("_dl_debug_state");
    return function ? image->file_offset(function->start) : std::nullopt;
}

std::optional<AttachedProbe> LinkerProbe::attach(const process::Module &linker, int32_t pid, const char *path) const {
    const auto entry = find_entry(linker);
    if (!entry)
        return std::nullopt;
    AttachedProbe probe;
    if (multi_) {
        MultiProbes probes;
        probes.path = path;
        probes.pid = pid;
        probes.offsets = {entry->value};
        probes.cookies = {0};
        probe.multi = create_multi_link(bpf_program__fd(program_), MultiType::kUprobeMulti, probes);
    } else {
        LIBBPF_OPTS(bpf_uprobe_opts, options);
        probe.single.reset(bpf_program__attach_uprobe_opts(program_, pid, path, entry->value, &options));
    }
    if (!probe.multi.valid() && probe.single == nullptr)
        return std::nullopt;
    return probe;
}

} // namespace dwunw::bpf
