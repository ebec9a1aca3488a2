// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/module_cfi.h"

#include <algorithm>
#include <limits>

namespace dwunw::unwind {
namespace {

// Compiles one FDE to the table's answer for one address. As in the table, an invalid row invalidates the whole FDE.
class OneFde final : public dwarf::TableProgram::Visitor {
  public:
    OneFde(const ModuleCfi::FoundFde &found, const arch::Arch &arch, LinkAddr address, const ReadCode &read_code)
        : found_(found), arch_(arch), address_(address), read_code_(read_code) {
        result_.end = found.fde.end;
    }

    ModuleCfi::RuleAt run() {
        dwarf::TableProgram program({arch_.sp, arch_.fp, arch_.ra});
        const auto initial = program.initial_state(found_.fde.cie);
        if (!initial || !program.run(found_.fde, *initial, *this) || failed_)
            return {DWUNW_ERR_CFI_MALFORMED, {}, found_.fde.end};
        if (result_.status == DWUNW_OK)
            leave_out_lost();
        return result_;
    }
    bool row(LinkAddr start, const dwarf::TableState &state) override {
        const auto rule = make_rule(state, found_.fde.cie, found_.section, arch_);
        failed_ = !rule;
        constexpr uint64_t kFarthest = std::numeric_limits<uint32_t>::max();
        if (rule && read_code_ && start - found_.fde.start <= kFarthest)
            rows_.push_back(LostSp::row(static_cast<uint32_t>(start - found_.fde.start), *rule, arch_));
        if (rule && start <= address_) {
            result_.status = DWUNW_OK;
            result_.rule = *rule;
        } else if (rule && start < result_.end) {
            result_.end = start;
        }
        return !failed_;
    }

  private:
    // Replaces a rule that the code contradicts. The result ends where the contradiction begins or ends.
    void leave_out_lost() {
        LostSp lost_sp(read_code_, arch_, LostSp::Order::kOneFde);
        const LinkAddr start = found_.fde.start;
        if (!LostSp::row(0, result_.rule, arch_).from_sp || !lost_sp.may_replace(start, found_.fde.end))
            return;
        for (const arch::CodeRange &lost : lost_sp.find(start, found_.fde.end, rows_)) {
            if (address_ < start + lost.start) {
                result_.end = std::min(result_.end, start + lost.start);
                return;
            }
            if (address_ < start + lost.end) {
                result_.rule = LostSp::lost_rule();
                result_.end = std::min(result_.end, start + lost.end);
                return;
            }
        }
    }

    const ModuleCfi::FoundFde &found_;
    const arch::Arch &arch_;
    LinkAddr address_;
    const ReadCode &read_code_;
    std::vector<arch::SpRow> rows_;
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
    module->text_base_ = input.text_base;
    module->data_base_ = input.data_base;
    module->debug_frame_ = std::move(input.debug_frame);
    module->read_code_ = std::move(input.read_code);
    module->share_ = std::move(input.share);
    if (input.eh_frame) {
        module->eh_frame_bytes_ = input.eh_frame->size();
        module->reader_ = std::make_shared<const FdeSearch>(std::move(*input.eh_frame), std::move(input.eh_frame_hdr),
                                                            input.text_base, input.data_base);
    }
    return module;
}

std::shared_ptr<const FdeSearch> ModuleCfi::reader() const {
    const std::lock_guard lock(reader_mutex_);
    return reader_;
}

Result<ModuleCfi::Sections> ModuleCfi::sections() const {
    Sections sections;
    if (const auto reader = this->reader()) {
        auto whole = reader->eh_frame().whole();
        if (!whole)
            return whole.error();
        sections.eh_frame = std::move(*whole);
        sections.views.emplace_back(dwarf::SectionKind::kEhFrame, sections.eh_frame->bytes(),
                                    reader->eh_frame().address(), text_base_, data_base_);
    }
    if (debug_frame_)
        sections.views.emplace_back(dwarf::SectionKind::kDebugFrame, debug_frame_->bytes, debug_frame_->address,
                                    text_base_, data_base_);
    return sections;
}

Result<const Table *> ModuleCfi::compile() const {
    std::call_once(compile_once_, [this] {
        auto sections = this->sections();
        if (!sections) {
            compiling_ = sections.error();
            return;
        }
        FdeList index(sections->views);
        compiled_ = std::make_unique<const Table>(Table::build(sections->views, index, *arch_, read_code_));
        table_.store(compiled_.get(), std::memory_order_release);
        const auto reader = this->reader();
        // A reader with a header needs no list: the header's search table replaces it.
        if (reader == nullptr || !reader->has_header())
            keep_index(std::move(index));
        auto unread = reader != nullptr ? reader->unread() : nullptr;
        const std::lock_guard lock(reader_mutex_);
        if (unread != nullptr)
            reader_ = std::move(unread);
    });
    if (!compiling_)
        return compiling_.error();
    return compiled_.get();
}

ModuleCfi::RuleAt ModuleCfi::rule_at(LinkAddr address) const {
    if (const Table *table = this->table()) {
        const Table::Row row = table->row_at(address);
        return {row.status, row.rule != nullptr ? *row.rule : Rule{}, row.end};
    }
    const auto place = find_place(address);
    if (!place)
        return {place.error().status, {}, address + 1};
    if (!place->fde)
        return {DWUNW_ERR_NO_CFI, {}, place->next};
    return OneFde(*place->fde, *arch_, address, read_code_).run();
}

Result<ModuleCfi::FdeOrGap> ModuleCfi::find_place(LinkAddr address) const {
    const auto reader = this->reader();
    const Table *table = this->table(); // answers every question once it is there
    if (reader != nullptr) {
        const auto answer = reader->find(address);
        if (!answer)
            return answer.error();
        if (answer->kind == FdeSearch::Answer::Kind::kFound) {
            const auto section = reader->section();
            if (!section)
                return section.error();
            return FdeOrGap{FoundFde{answer->fde, *section, reader}, answer->fde.end};
        }
        if (answer->kind == FdeSearch::Answer::Kind::kGap && !debug_frame_ && table == nullptr)
            return FdeOrGap{std::nullopt, answer->next};
    }
    if (table != nullptr)
        if (const Table::Row row = table->row_at(address); row.status == DWUNW_ERR_NO_CFI)
            return FdeOrGap{std::nullopt, row.end};
    const auto index = fdes();
    if (!index)
        return index.error();
    const FdeRef *ref = (*index)->find(address);
    if (ref == nullptr)
        return FdeOrGap{std::nullopt, (*index)->next_start(address)};
    if (ref->section == 0 && reader != nullptr) {
        const auto fde = reader->fde_at(ref->offset);
        if (!fde)
            return fde.error();
        const auto section = reader->section();
        if (!section)
            return section.error();
        return FdeOrGap{FoundFde{*fde, *section, reader}, ref->end};
    }
    const dwarf::CfiSection section(dwarf::SectionKind::kDebugFrame, debug_frame_->bytes, debug_frame_->address,
                                    text_base_, data_base_);
    const auto fde = section.fde_at(ref->offset);
    if (!fde)
        return fde.error();
    return FdeOrGap{FoundFde{*fde, section.bytes()}, ref->end};
}

Result<ModuleCfi::FoundFde> ModuleCfi::find_fde(LinkAddr address) const {
    auto place = find_place(address);
    if (!place)
        return place.error();
    if (!place->fde)
        return Error{DWUNW_ERR_NO_CFI, address.value};
    return std::move(*place->fde);
}

Result<const FdeList *> ModuleCfi::fdes() const {
    std::call_once(index_once_, [this] {
        const auto sections = this->sections();
        if (!sections) {
            listing_ = sections.error();
            return;
        }
        index_ = FdeList(sections->views);
        index_.forget_cies();
        has_index_.store(true, std::memory_order_release);
    });
    if (!listing_)
        return listing_.error();
    return &index_;
}

void ModuleCfi::keep_index(FdeList index) const {
    std::call_once(index_once_, [&] {
        index_ = std::move(index);
        index_.forget_cies();
        has_index_.store(true, std::memory_order_release);
    });
}

size_t ModuleCfi::section_bytes() const { return eh_frame_bytes_ + (debug_frame_ ? debug_frame_->bytes.size() : 0); }

size_t ModuleCfi::memory_bytes() const {
    size_t bytes = sizeof(*this) + (debug_frame_ ? debug_frame_->bytes.size() : 0);
    if (const auto reader = this->reader())
        bytes += reader->memory_bytes();
    if (const Table *table = this->table())
        bytes += table->memory_bytes();
    if (has_index_.load(std::memory_order_acquire))
        bytes += index_.fdes().size_bytes();
    return bytes;
}

} // namespace dwunw::unwind
