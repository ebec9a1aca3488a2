// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/module_cfi.h"

namespace dwunw::unwind {
namespace {

// One FDE compiled to what the table would say of one address. Like there, a row that cannot be used spoils them all.
class OneFde final : public dwarf::TableProgram::Visitor {
  public:
    OneFde(const ModuleCfi::FoundFde &found, const arch::Arch &arch, LinkAddr address)
        : found_(found), arch_(arch), address_(address) {
        result_.end = found.fde.end;
    }

    ModuleCfi::RuleAt run() {
        dwarf::TableProgram program({arch_.sp, arch_.fp, arch_.ra});
        const auto initial = program.initial_state(found_.fde.cie);
        if (!initial || !program.run(found_.fde, *initial, *this) || failed_)
            return {DWUNW_ERR_CFI_MALFORMED, {}, found_.fde.end};
        return result_;
    }
    bool row(LinkAddr start, const dwarf::TableState &state) override {
        const auto rule = make_rule(state, found_.fde.cie, found_.section, arch_);
        failed_ = !rule;
        if (rule && start <= address_) {
            result_.status = DWUNW_OK;
            result_.rule = *rule;
        } else if (rule && start < result_.end) {
            result_.end = start;
        }
        return !failed_;
    }

  private:
    const ModuleCfi::FoundFde &found_;
    const arch::Arch &arch_;
    LinkAddr address_;
    ModuleCfi::RuleAt result_;
    bool failed_ = false;
};

} // namespace

Result<std::unique_ptr<ModuleCfi>> ModuleCfi::build(CfiInput input) {
    const arch::Arch *arch = arch::find_by_machine(input.machine);
    if (arch == nullptr)
        return Error{DWUNW_ERR_UNSUPPORTED_ARCH, input.machine};
    if (!input.eh_frame && !input.debug_frame)
        return Error{DWUNW_ERR_NO_CFI};
    std::unique_ptr<ModuleCfi> module(new ModuleCfi);
    module->arch_ = arch;
    module->entry_ = input.entry;
    module->eh_frame_bytes_ = std::move(input.eh_frame);
    module->eh_frame_hdr_bytes_ = std::move(input.eh_frame_hdr);
    module->debug_frame_bytes_ = std::move(input.debug_frame);
    auto view = [&](dwarf::SectionKind kind, const std::optional<SectionBytes> &section) {
        if (section)
            module->sections_.emplace_back(kind, section->bytes, section->address, input.text_base, input.data_base);
    };
    view(dwarf::SectionKind::kEhFrame, module->eh_frame_bytes_);
    view(dwarf::SectionKind::kDebugFrame, module->debug_frame_bytes_);
    if (module->eh_frame_bytes_ && module->eh_frame_hdr_bytes_)
        module->header_ =
            dwarf::EhFrameHdr::parse(module->eh_frame_hdr_bytes_->bytes, module->eh_frame_hdr_bytes_->address);
    return module;
}

const Table &ModuleCfi::compile() const {
    std::call_once(compile_once_, [this] {
        // The header's search table stands in for the list once the rows are there.
        std::optional<FdeIndex> own;
        const FdeIndex &index = header_ ? own.emplace(sections_) : fdes();
        compiled_ = std::make_unique<const Table>(Table::build(sections_, index, *arch_));
        table_.store(compiled_.get(), std::memory_order_release);
    });
    return *compiled_;
}

ModuleCfi::RuleAt ModuleCfi::rule_at(LinkAddr address) const {
    if (const Table *table = this->table()) {
        const Table::Row row = table->row_at(address);
        return {row.status, row.rule != nullptr ? *row.rule : Rule{}, row.end};
    }
    auto found = find_fde(address);
    if (!found)
        return {found.error().status, {}, fdes().next_start(address)};
    return OneFde(*found, *arch_, address).run();
}

std::optional<dwarf::Fde> ModuleCfi::find_by_header(LinkAddr address) const {
    if (!header_)
        return std::nullopt;
    const auto where = header_->find(address);
    const dwarf::CfiSection &section = sections_.front();
    if (!where || *where < eh_frame_bytes_->address || *where - eh_frame_bytes_->address >= section.bytes().size())
        return std::nullopt;
    auto fde = section.fde_at(*where - eh_frame_bytes_->address);
    if (!fde || address < fde->start || address >= fde->end)
        return std::nullopt;
    return *fde;
}

Result<ModuleCfi::FoundFde> ModuleCfi::find_fde(LinkAddr address) const {
    if (const auto fde = find_by_header(address))
        return FoundFde{*fde, sections_.front().bytes()};
    const Table *table = this->table();
    if (table != nullptr && table->lookup(address).status == DWUNW_ERR_NO_CFI)
        return Error{DWUNW_ERR_NO_CFI, address.value};
    const FdeRef *ref = fdes().find(address);
    if (ref == nullptr)
        return Error{DWUNW_ERR_NO_CFI, address.value};
    const dwarf::CfiSection &section = sections_[ref->section];
    auto fde = section.fde_at(ref->offset);
    if (!fde)
        return fde.error();
    return FoundFde{*fde, section.bytes()};
}

const FdeIndex &ModuleCfi::fdes() const {
    std::call_once(index_once_, [this] {
        index_ = FdeIndex(sections_);
        has_index_.store(true, std::memory_order_release);
    });
    return index_;
}

bool ModuleCfi::is_entry_point(LinkAddr address) const {
    // _start is a dozen instructions, and the return address of its one call lies behind them.
    constexpr uint64_t kStartCodeBytes = 64;
    return entry_.value != 0 && address >= entry_ && address - entry_ < kStartCodeBytes;
}

size_t ModuleCfi::section_bytes() const {
    size_t bytes = 0;
    for (const dwarf::CfiSection &section : sections_)
        bytes += section.bytes().size();
    return bytes;
}

size_t ModuleCfi::memory_bytes() const {
    size_t bytes = section_bytes() + (eh_frame_hdr_bytes_ ? eh_frame_hdr_bytes_->bytes.size() : 0);
    if (const Table *table = this->table())
        bytes += table->memory_bytes();
    if (has_index_.load(std::memory_order_acquire))
        bytes += index_.fdes().size_bytes() + index_.cies().size_bytes();
    return bytes;
}

} // namespace dwunw::unwind
