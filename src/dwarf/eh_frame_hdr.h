// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// .eh_frame_hdr's search table (LSB Core, ".eh_frame_hdr"): which FDE begins at or before an address. What it says is a
// claim; whoever uses it looks whether the FDE covers the address.
#pragma once

#include "base/address.h"

#include <optional>
#include <span>

namespace dwunw::dwarf {

class EhFrameHdr {
  public:
    // nullopt where there is no table in the one form that linkers write (version 1; datarel, 4 signed bytes, sorted),
    // or it is cut short. The bytes are the caller's and stay.
    static std::optional<EhFrameHdr> parse(std::span<const uint8_t> bytes, LinkAddr address);

    size_t fde_count() const { return table_.size() / kEntryBytes; }
    // Where the last FDE that begins at or before an address lies.
    std::optional<LinkAddr> find(LinkAddr address) const;

  private:
    static constexpr size_t kEntryBytes = 8; // two int32_t, from the section's start: the code's, the FDE's

    EhFrameHdr(std::span<const uint8_t> table, LinkAddr address) : table_(table), address_(address) {}
    LinkAddr at(size_t index, size_t field) const;

    std::span<const uint8_t> table_;
    LinkAddr address_;
};

} // namespace dwunw::dwarf
