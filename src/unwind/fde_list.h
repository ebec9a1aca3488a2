// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Every FDE of a module, by address. Built from the sections themselves, not from .eh_frame_hdr, which may be missing
// and is only a claim.
#pragma once

#include "base/address.h"
#include "base/pages.h"
#include "base/result.h"
#include "dwarf/cfi_section.h"

#include <span>
#include <vector>

namespace dwunw::unwind {

// Limits for hostile sections: the refusals that are kept (all are counted), the CIEs of a section, and the FDEs that
// are listed before useless ones are dropped. A linker merges equal CIEs; the largest programs have some 600,000 FDEs.
inline constexpr size_t kMaxRefusals = 4096;
inline constexpr size_t kMaxCies = size_t{1} << 17;
inline constexpr size_t kMaxListed = size_t{1} << 20;

// An FDE that is not used, and the reason.
struct Refusal {
    Error error;
    size_t section_offset = 0;
    LinkAddr start;
};

// An FDE's first address, and where to read the FDE again.
struct FdeRef {
    LinkAddr start;
    LinkAddr end;
    uint32_t section = 0; // an index into the sections
    uint32_t cie = 0;     // an index into FdeList::cies()
    size_t offset = 0;
};

class FdeList {
  public:
    FdeList() = default;
    // Sections come in order of preference: an FDE of a later section that overlaps one of an earlier section is left
    // out.
    explicit FdeList(std::span<const dwarf::CfiSection> sections);

    // In ascending order of start, no two equal. If two overlap, the second one is valid from its start on, and no rule
    // is certain behind its end.
    std::span<const FdeRef> fdes() const { return fdes_; }
    // The FDE that covers an address; nullptr if none does.
    const FdeRef *find(LinkAddr address) const;
    // The start of the first FDE behind an address; the end of all addresses if there is none.
    LinkAddr next_start(LinkAddr address) const;
    // Views of the sections' bytes; nothing else here refers to those bytes.
    std::span<const dwarf::Cie> cies() const { return cies_; }
    void forget_cies() { cies_ = {}; }

    // The first kMaxRefusals of refusal_count().
    const std::vector<Refusal> &refusals() const { return refusals_; }
    size_t refusal_count() const { return refusal_count_; }
    // The most FDEs that were held at once while a section was listed.
    size_t most_listed() const { return most_listed_; }
    size_t tombstone_count() const { return tombstones_; }

  private:
    PagedVector<FdeRef>::const_iterator first_behind(LinkAddr address) const;
    void list(std::span<const dwarf::CfiSection> sections, uint32_t index);
    void take_over(PagedVector<FdeRef> listed);
    void refuse(Error error, size_t offset);

    PagedVector<FdeRef> fdes_;
    std::vector<dwarf::Cie> cies_;
    std::vector<Refusal> refusals_;
    size_t refusal_count_ = 0;
    size_t most_listed_ = 0;
    size_t tombstones_ = 0;
};

} // namespace dwunw::unwind
