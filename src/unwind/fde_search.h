// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds single FDEs of .eh_frame through .eh_frame_hdr's search table, and reads only the bytes that this needs:
//
//     .eh_frame_hdr   … | 0x1100 → FDE 16 | 0x1129 → FDE 17 | 0x1180 → FDE 18 | …     a binary search for 0x1130
//     .eh_frame       …                     [FDE 17: 0x1129 … 0x114f]                 covers 0x1130: use it
//
// The header is only a claim. An FDE that it leads to is used if the FDE covers the address. The answer "no FDE covers
// the address" is accepted only if all of these hold:
//   - the FDEs on both sides of the address begin where the header says, and end before the address or begin behind it;
//   - the header has as many entries as a section of that size must have;
//   - the section is big. All FDEs of a small section can be listed quickly instead. So a header that names a wrong FDE
//     hides nothing. A header that leaves an FDE out can hide it until the table is there. No linker writes such a
//     header, and libgcc would not find that FDE either.
//
// Thread-safe.
#pragma once

#include "base/lazy_section.h"
#include "base/result.h"
#include "dwarf/cfi_section.h"
#include "dwarf/eh_frame_hdr.h"

#include <memory>
#include <mutex>
#include <optional>

namespace dwunw::unwind {

class FdeSearch {
  public:
    // A section up to this size is listed, and the header is not used (under a tenth of a millisecond).
    static constexpr size_t kListedBytes = size_t{64} << 10;
    // The most bytes of .eh_frame for each FDE, on average. Real sections have some 30 to 400.
    static constexpr size_t kBytesPerFde = 1024;

    FdeSearch(LazySection eh_frame, std::optional<LazySection> header, LinkAddr text_base, LinkAddr data_base)
        : eh_frame_(std::move(eh_frame)), header_section_(std::move(header)), text_base_(text_base),
          data_base_(data_base) {}

    struct Answer {
        enum class Kind : uint8_t {
            kUnknown, // the header does not say, or is not trusted
            kFound,
            kGap, // no FDE covers the address
        } kind = Kind::kUnknown;
        dwarf::Fde fde{}; // kFound; a view of bytes that live as long as the reader
        LinkAddr next{};  // kGap: start of the FDE behind the address; the end of all addresses if there is none
    };
    // LazySection::load()'s errors.
    Result<Answer> find(LinkAddr address) const;
    // The FDE at an offset; CfiSection::fde_at()'s and LazySection::load()'s errors.
    Result<dwarf::Fde> fde_at(size_t offset) const;
    // The section that offsets in the FDEs refer to. Only the bytes of FDEs that were read, and of their CIEs, are
    // valid.
    Result<std::span<const uint8_t>> section() const { return eh_frame_.load(0, 0); }

    const LazySection &eh_frame() const { return eh_frame_; }
    bool has_header() const { return header() != nullptr; }
    // The same reader with nothing read yet; nullptr if the bytes have no other copy.
    std::shared_ptr<const FdeSearch> unread() const;
    size_t memory_bytes() const;

  private:
    const dwarf::EhFrameHdr *header() const;
    Result<dwarf::CfiSection::Entry> load_entry(size_t offset) const;
    dwarf::CfiSection view(std::span<const uint8_t> bytes) const {
        return {dwarf::SectionKind::kEhFrame, bytes, eh_frame_.address(), text_base_, data_base_};
    }
    // An entry of the header and the FDE that it names; nullopt if there is no FDE.
    struct Claim {
        LinkAddr start;
        std::optional<dwarf::Fde> fde;
        bool holds() const { return fde && fde->start == start && fde->start < fde->end; }
    };
    Result<Claim> claim(size_t index) const;

    LazySection eh_frame_;
    std::optional<LazySection> header_section_;
    LinkAddr text_base_;
    LinkAddr data_base_;
    mutable std::once_flag header_once_;
    mutable std::optional<dwarf::EhFrameHdr> header_; // nullopt: there is none that can be searched
};

} // namespace dwunw::unwind
