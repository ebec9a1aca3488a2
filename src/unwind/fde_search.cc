// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/fde_search.h"

namespace dwunw::unwind {
namespace {

// Whether an error is about reading the file, not about its content.
bool is_of_reading(const Error &error) {
    return error.status == DWUNW_ERR_MODULE_CHANGED || error.status == DWUNW_ERR_IO;
}

} // namespace

const dwarf::EhFrameHdr *FdeSearch::header() const {
    std::call_once(header_once_, [this] {
        if (header_section_)
            header_ = dwarf::EhFrameHdr::parse(*header_section_);
    });
    return header_ ? &*header_ : nullptr;
}

Result<dwarf::CfiSection::Entry> FdeSearch::load_entry(size_t offset) const {
    constexpr size_t kLengthAndId = 4 + 8 + 4;
    const auto beginning = eh_frame_.load(offset, kLengthAndId);
    if (!beginning)
        return beginning.error();
    const auto entry = view(*beginning).entry_at(offset);
    if (!entry || entry->kind == dwarf::CfiSection::Entry::Kind::kEnd)
        return entry;
    const auto all = eh_frame_.load(offset, entry->next - offset);
    if (!all)
        return all.error();
    return entry;
}

Result<dwarf::Fde> FdeSearch::fde_at(size_t offset) const {
    const auto entry = load_entry(offset);
    if (!entry)
        return entry.error();
    if (entry->kind != dwarf::CfiSection::Entry::Kind::kFde)
        return Error{DWUNW_ERR_CFI_MALFORMED, offset};
    const auto cie_entry = load_entry(entry->cie_offset);
    if (!cie_entry)
        return cie_entry.error();
    const auto bytes = section();
    if (!bytes)
        return bytes.error();
    const auto cie = view(*bytes).parse_cie(*cie_entry);
    if (!cie)
        return cie.error();
    return view(*bytes).parse_fde(*entry, *cie);
}

Result<FdeSearch::Claim> FdeSearch::claim(size_t index) const {
    const auto entry = header_->entry(index);
    if (!entry)
        return entry.error();
    Claim claim{entry->start, std::nullopt};
    if (entry->fde < eh_frame_.address() || entry->fde - eh_frame_.address() >= eh_frame_.size())
        return claim;
    auto fde = fde_at(entry->fde - eh_frame_.address());
    if (fde)
        claim.fde = *fde;
    else if (is_of_reading(fde.error()))
        return fde.error();
    return claim;
}

Result<FdeSearch::Answer> FdeSearch::find(LinkAddr address) const {
    const dwarf::EhFrameHdr *header = this->header();
    if (header == nullptr)
        return Answer{};
    const auto until = header->count_until(address);
    if (!until)
        return until.error();
    Answer answer;
    answer.next = LinkAddr(~uint64_t{0});
    bool is_gap = eh_frame_.size() > kListedBytes && eh_frame_.size() / kBytesPerFde <= header->fde_count();
    if (*until > 0) {
        const auto before = claim(*until - 1);
        if (!before)
            return before.error();
        if (before->fde && before->fde->start <= address && address < before->fde->end) {
            answer.kind = Answer::Kind::kFound;
            answer.fde = *before->fde;
            return answer;
        }
        is_gap = is_gap && before->holds() && before->fde->end <= address;
    }
    if (is_gap && *until < header->fde_count()) {
        const auto behind = claim(*until);
        if (!behind)
            return behind.error();
        is_gap = behind->holds() && behind->start > address;
        answer.next = behind->start;
    }
    if (is_gap)
        answer.kind = Answer::Kind::kGap;
    return answer;
}

std::shared_ptr<const FdeSearch> FdeSearch::unread() const {
    auto eh_frame = eh_frame_.unread();
    if (!eh_frame)
        return nullptr;
    auto header = header_section_ ? header_section_->unread() : std::nullopt;
    return std::make_shared<const FdeSearch>(std::move(*eh_frame), std::move(header), text_base_, data_base_);
}

size_t FdeSearch::memory_bytes() const {
    return eh_frame_.memory_bytes() + (header_section_ ? header_section_->memory_bytes() : 0);
}

} // namespace dwunw::unwind
