// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Every FDE of a module by address: which one's rows hold where. Built from the sections themselves, not from
// .eh_frame_hdr, which may be missing and is only a claim.
#pragma once

#include "base/address.h"
#include "base/pages.h"
#include "base/result.h"
#include "dwarf/cfi_section.h"

#include <span>
#include <vector>

namespace dwunw::unwind {

// An FDE that is not used, and why.
struct Refusal {
    Error error;
    size_t section_offset = 0;
    LinkAddr start;
};

// Where an FDE begins and can be read again.
struct FdeRef {
    LinkAddr start;
    LinkAddr end;
    uint32_t section = 0; // an index into the sections
    uint32_t cie = 0;     // an index into FdeIndex::cies()
    size_t offset = 0;
};

class FdeIndex {
  public:
    FdeIndex() = default;
    // Sections come in order of preference: an FDE of a later one that overlaps one of an earlier one is left out.
    explicit FdeIndex(std::span<const dwarf::CfiSection> sections);

    // Ascending by start, no two alike. Where two overlap, the second holds from its start on, and behind its end
    // nothing is certain.
    std::span<const FdeRef> fdes() const { return fdes_; }
    // The FDE that covers an address, nullptr where none does.
    const FdeRef *find(LinkAddr address) const;
    // Where the first FDE behind an address begins; the end of all addresses where none does.
    LinkAddr next_start(LinkAddr address) const;
    // Views of the sections' bytes; what else is here needs them no more.
    std::span<const dwarf::Cie> cies() const { return cies_; }
    void forget_cies() { cies_ = {}; }

    const std::vector<Refusal> &refusals() const { return refusals_; }
    size_t tombstone_count() const { return tombstones_; }

  private:
    PagedVector<FdeRef>::const_iterator first_behind(LinkAddr address) const;
    void list(std::span<const dwarf::CfiSection> sections, uint32_t index);
    void take_over(PagedVector<FdeRef> listed);

    PagedVector<FdeRef> fdes_;
    std::vector<dwarf::Cie> cies_;
    std::vector<Refusal> refusals_;
    size_t tombstones_ = 0;
};

} // namespace dwunw::unwind
