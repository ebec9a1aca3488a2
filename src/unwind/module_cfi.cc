// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/module_cfi.h"

namespace dwunw::unwind {

Result<std::unique_ptr<ModuleCfi>> ModuleCfi::build(CfiInput input) {
    const arch::Arch *arch = arch::find_by_machine(input.machine);
    if (arch == nullptr)
        return Error{DWUNW_ERR_UNSUPPORTED_ARCH, input.machine};
    if (!input.eh_frame && !input.debug_frame)
        return Error{DWUNW_ERR_NO_CFI};
    std::unique_ptr<ModuleCfi> module(new ModuleCfi);
    module->entry_ = input.entry;
    module->eh_frame_bytes_ = std::move(input.eh_frame);
    module->debug_frame_bytes_ = std::move(input.debug_frame);
    auto view = [&](dwarf::SectionKind kind, const std::optional<SectionBytes> &section) {
        if (section)
            module->sections_.emplace_back(kind, section->bytes, section->address, input.text_base, input.data_base);
    };
    view(dwarf::SectionKind::kEhFrame, module->eh_frame_bytes_);
    view(dwarf::SectionKind::kDebugFrame, module->debug_frame_bytes_);
    module->table_ = Table::build(module->sections_, *arch);
    return module;
}

Result<ModuleCfi::FoundFde> ModuleCfi::find_fde(LinkAddr address) const {
    const FdeRef *ref = table_.find_fde(address);
    if (ref == nullptr)
        return Error{DWUNW_ERR_NO_CFI, address.value};
    const dwarf::CfiSection &section = sections_[ref->section];
    auto fde = section.fde_at(ref->offset);
    if (!fde)
        return fde.error();
    return FoundFde{*fde, section.bytes()};
}

bool ModuleCfi::is_entry_point(LinkAddr address) const {
    // _start is a dozen instructions, and the return address of its one call lies behind them.
    constexpr uint64_t kStartCodeBytes = 64;
    return entry_.value != 0 && address >= entry_ && address - entry_ < kStartCodeBytes;
}

} // namespace dwunw::unwind
