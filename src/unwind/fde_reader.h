// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// .eh_frame's FDEs one at a time, through .eh_frame_hdr's search table, reading no more of either than that takes.
//
// The header is a claim of the file's own. An FDE that it leads to is taken if it covers the address. That none does is
// taken from it only
//   if the FDEs on both sides of the address begin where the header says, and end before it, or behind it;
//   if the header has as many entries as a section of that size must have;
//   and only in a big section: of a small one, every FDE is soon listed.
// So a header that leaves an FDE out, which no linker writes and libgcc would not find the FDE by either, can hide it
// until the table is there; one that names a wrong FDE hides nothing.
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

class FdeReader {
  public:
    // A section up to this size is listed rather than taken on trust (under a tenth of a millisecond).
    static constexpr size_t kListedBytes = size_t{64} << 10;
    // The most bytes of .eh_frame for an FDE of it, on average; in real ones some 30 to 400.
    static constexpr size_t kBytesPerFde = 1024;

    FdeReader(LazySection eh_frame, std::optional<LazySection> header, LinkAddr text_base, LinkAddr data_base)
        : eh_frame_(std::move(eh_frame)), header_section_(std::move(header)), text_base_(text_base),
          data_base_(data_base) {}

    struct Answer {
        enum class Kind : uint8_t {
            kUnknown, // the header does not say, or is not believed
            kFound,
            kGap, // no FDE covers the address
        } kind = Kind::kUnknown;
        dwarf::Fde fde{}; // kFound; a view of bytes that live as long as the reader
        LinkAddr next{};  // kGap: where the FDE behind the address begins; the end of all addresses where none does
    };
    // LazySection::load()'s errors.
    Result<Answer> find(LinkAddr address) const;
    // The FDE at an offset; CfiSection::fde_at()'s and LazySection::load()'s errors.
    Result<dwarf::Fde> fde_at(size_t offset) const;
    // What the offsets in its FDEs refer to; of the bytes, only theirs and their CIEs' are there.
    Result<std::span<const uint8_t>> section() const { return eh_frame_.load(0, 0); }

    const LazySection &eh_frame() const { return eh_frame_; }
    bool has_header() const { return header() != nullptr; }
    // The same with nothing read yet; nullptr where there is no other copy of the bytes.
    std::shared_ptr<const FdeReader> unread() const;
    size_t memory_bytes() const;

  private:
    const dwarf::EhFrameHdr *header() const;
    Result<dwarf::CfiSection::Entry> load_entry(size_t offset) const;
    dwarf::CfiSection view(std::span<const uint8_t> bytes) const {
        return {dwarf::SectionKind::kEhFrame, bytes, eh_frame_.address(), text_base_, data_base_};
    }
    // An entry of the header and what it leads to; nullopt where that is no FDE.
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
    mutable std::optional<dwarf::EhFrameHdr> header_; // nullopt where there is none that can be searched
};

} // namespace dwunw::unwind
