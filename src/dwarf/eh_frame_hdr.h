// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// .eh_frame_hdr's search table (LSB Core, ".eh_frame_hdr"): which FDE begins at or before an address. The table is only
// a claim: the caller must look at the FDE itself.
#pragma once

#include "base/address.h"
#include "base/lazy_section.h"
#include "base/result.h"

#include <optional>

namespace dwunw::dwarf {

class EhFrameHdr {
  public:
    // nullopt if there is no table in the form that linkers write (version 1; datarel, 4 signed bytes, sorted), or if
    // the table is truncated or unreadable. The caller owns the section, which must outlive this.
    static std::optional<EhFrameHdr> parse(const LazySection &section);

    size_t fde_count() const { return count_; }
    struct Entry {
        LinkAddr start; // of the FDE's code
        LinkAddr fde;
    };
    // LazySection::load()'s errors.
    Result<Entry> entry(size_t index) const;
    // The number of entries that begin at or before an address, if the entries are sorted.
    Result<size_t> count_until(LinkAddr address) const;

  private:
    static constexpr size_t kEntryBytes = 8; // two int32_t, relative to the section's start: the code's, the FDE's

    EhFrameHdr(const LazySection &section, size_t table, size_t count)
        : section_(&section), table_(table), count_(count) {}

    const LazySection *section_;
    size_t table_; // offset of the table
    size_t count_;
};

} // namespace dwunw::dwarf
