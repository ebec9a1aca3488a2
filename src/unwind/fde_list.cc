// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/fde_list.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <unordered_map>

namespace dwunw::unwind {
namespace {

bool starts_before(const FdeRef &a, const FdeRef &b) { return a.start < b.start; }

// Sorts by start and keeps the order of equal ones. Linkers write FDEs in the order of the code they meet, and a
// library has a hundred thousand of them within some megabytes: three passes over short keys.
void sort_by_start(PagedVector<FdeRef> &fdes) {
    constexpr unsigned kDigitBits = 11;
    constexpr size_t kDigits = size_t{1} << kDigitBits;
    struct Key {
        uint32_t distance;
        uint32_t place;
    };
    constexpr uint64_t kMax = std::numeric_limits<uint32_t>::max();
    const auto [first, last] = std::ranges::minmax(fdes, starts_before);
    if (fdes.size() < kDigits || fdes.size() > kMax || last.start - first.start > kMax) {
        std::ranges::stable_sort(fdes, starts_before);
        return;
    }
    std::vector<Key> keys(fdes.size());
    std::vector<Key> moved(fdes.size());
    for (size_t i = 0; i < fdes.size(); ++i)
        keys[i] = {static_cast<uint32_t>(fdes[i].start - first.start), static_cast<uint32_t>(i)};
    for (unsigned shift = 0; shift < 32 && (last.start - first.start) >> shift != 0; shift += kDigitBits) {
        const auto digit = [shift](const Key &key) { return key.distance >> shift & (kDigits - 1); };
        std::array<uint32_t, kDigits> places{};
        for (const Key &key : keys)
            ++places[digit(key)];
        std::exclusive_scan(places.begin(), places.end(), places.begin(), uint32_t{0});
        for (const Key &key : keys)
            moved[places[digit(key)]++] = key;
        keys.swap(moved);
    }
    PagedVector<FdeRef> sorted;
    sorted.reserve(fdes.size());
    for (const Key &key : keys)
        sorted.push_back(fdes[key.place]);
    fdes = std::move(sorted);
}

// Sorts, and keeps the first FDE of several at one address.
void put_in_order(PagedVector<FdeRef> &fdes) {
    if (!std::is_sorted(fdes.begin(), fdes.end(), starts_before))
        sort_by_start(fdes);
    const auto repeated = [](const FdeRef &a, const FdeRef &b) { return a.start == b.start; };
    fdes.erase(std::unique(fdes.begin(), fdes.end(), repeated), fdes.end());
}

} // namespace

void FdeList::refuse(Error error, size_t offset) {
    ++refusal_count_;
    if (refusals_.size() < kMaxRefusals)
        refusals_.push_back({error, offset, LinkAddr()});
}

FdeList::FdeList(std::span<const dwarf::CfiSection> sections) {
    for (uint32_t i = 0; i < sections.size(); ++i)
        list(sections, i);
}

void FdeList::list(std::span<const dwarf::CfiSection> sections, uint32_t index) {
    constexpr uint32_t kBadCie = 0xffffffff;
    constexpr size_t kSmallestFde = 16;
    const dwarf::CfiSection &section = sections[index];
    PagedVector<FdeRef> listed;
    size_t full_at = kMaxListed;
    // Untouched memory costs nothing, but moving entries does.
    listed.reserve(section.bytes().size() / kSmallestFde);
    std::unordered_map<size_t, uint32_t> cie_at;
    // Most FDEs name the same CIE as the FDE before them.
    size_t last_offset = SIZE_MAX;
    uint32_t last_cie = kBadCie;
    const auto cie_of = [&](size_t offset) {
        if (offset == last_offset)
            return last_cie;
        last_offset = offset;
        last_cie = kBadCie;
        if (cie_at.size() >= kMaxCies && !cie_at.contains(offset)) {
            refuse(Error{DWUNW_ERR_LIMIT, cie_at.size()}, offset);
            return kBadCie;
        }
        auto [known, added] = cie_at.try_emplace(offset, kBadCie);
        if (added) {
            auto entry = section.entry_at(offset);
            auto cie = entry ? section.parse_cie(*entry) : Result<dwarf::Cie>(entry.error());
            if (cie) {
                known->second = static_cast<uint32_t>(cies_.size());
                cies_.push_back(*cie);
            } else {
                refuse(cie.error(), offset);
            }
        }
        last_cie = known->second;
        return last_cie;
    };

    for (size_t offset = 0;;) {
        auto entry = section.entry_at(offset);
        if (!entry) {
            refuse(entry.error(), offset);
            break;
        }
        if (entry->kind == dwarf::CfiSection::Entry::Kind::kEnd)
            break;
        offset = entry->next;
        if (entry->kind != dwarf::CfiSection::Entry::Kind::kFde)
            continue;
        const uint32_t cie = cie_of(entry->cie_offset);
        if (cie == kBadCie) {
            refuse(Error{DWUNW_ERR_CFI_MALFORMED, entry->cie_offset}, entry->offset);
            continue;
        }
        auto range = section.parse_range(*entry, cies_[cie]);
        if (!range) {
            refuse(range.error(), entry->offset);
            continue;
        }
        // Discarded code: linkers leave the FDE, with its start or all of it zeroed.
        if (range->start.value == 0 || range->start == range->end) {
            ++tombstones_;
            continue;
        }
        if (listed.size() == full_at) {
            put_in_order(listed);
            full_at = std::max(kMaxListed, 2 * listed.size());
        }
        listed.push_back({range->start, range->end, index, cie, entry->offset});
        most_listed_ = std::max(most_listed_, listed.size());
    }
    put_in_order(listed);
    take_over(std::move(listed));
}

void FdeList::take_over(PagedVector<FdeRef> listed) {
    if (fdes_.empty()) {
        fdes_ = std::move(listed);
        return;
    }
    std::erase_if(listed, [&](const FdeRef &fde) {
        const auto after = std::upper_bound(fdes_.begin(), fdes_.end(), fde, starts_before);
        return (after != fdes_.begin() && std::prev(after)->end > fde.start) ||
               (after != fdes_.end() && after->start < fde.end);
    });
    const auto middle = static_cast<ptrdiff_t>(fdes_.size());
    fdes_.insert(fdes_.end(), listed.begin(), listed.end());
    std::inplace_merge(fdes_.begin(), fdes_.begin() + middle, fdes_.end(), starts_before);
}

PagedVector<FdeRef>::const_iterator FdeList::first_behind(LinkAddr address) const {
    return std::upper_bound(fdes_.begin(), fdes_.end(), address,
                            [](LinkAddr value, const FdeRef &fde) { return value < fde.start; });
}

const FdeRef *FdeList::find(LinkAddr address) const {
    const auto after = first_behind(address);
    if (after == fdes_.begin())
        return nullptr;
    const FdeRef &fde = *std::prev(after);
    return address < fde.end ? &fde : nullptr;
}

LinkAddr FdeList::next_start(LinkAddr address) const {
    const auto after = first_behind(address);
    return after == fdes_.end() ? LinkAddr(~uint64_t{0}) : after->start;
}

} // namespace dwunw::unwind
