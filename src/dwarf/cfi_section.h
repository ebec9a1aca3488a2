// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The entries of .eh_frame and .debug_frame: CIEs and FDEs (DWARF 5 §6.4.1 and §7.24; LSB Core, "Exception Frames"). A
// view of bytes that another object owns; cheap to copy.
#pragma once

#include "base/address.h"
#include "base/cursor.h"
#include "base/result.h"
#include "dwarf/encoded_pointer.h"

#include <span>

namespace dwunw::dwarf {

enum class SectionKind : uint8_t { kEhFrame, kDebugFrame };

struct Cie {
    size_t offset = 0; // of its length field in the section
    uint8_t version = 0;
    uint64_t code_alignment = 0;
    int64_t data_alignment = 0;
    uint64_t return_address_register = 0;
    bool has_augmentation_data = false; // 'z'
    bool signal_frame = false;          // 'S'
    uint8_t fde_encoding = 0;           // 'R'
    uint8_t lsda_encoding = 0xff;       // 'L'; DW_EH_PE_omit: its FDEs have none
    std::span<const uint8_t> instructions;
    size_t instructions_offset = 0; // in the section
};

struct Fde {
    size_t offset = 0;
    Cie cie;
    LinkAddr start;
    LinkAddr end;                   // exclusive
    size_t augmentation_offset = 0; // of the augmentation data in the section, if the CIE says that there is some
    std::span<const uint8_t> instructions;
    size_t instructions_offset = 0;
    PointerBases bases; // for DW_CFA_set_loc
};

class CfiSection {
  public:
    CfiSection(SectionKind kind, std::span<const uint8_t> bytes, LinkAddr address, LinkAddr text_base,
               LinkAddr data_base)
        : kind_(kind), bytes_(bytes), bases_{address, text_base, data_base, LinkAddr()} {}

    SectionKind kind() const { return kind_; }
    std::span<const uint8_t> bytes() const { return bytes_; }

    struct Entry {
        enum class Kind : uint8_t { kCie, kFde, kEnd } kind = Kind::kEnd;
        size_t offset = 0;     // of the length field
        size_t next = 0;       // offset of the entry after it
        size_t cie_offset = 0; // kFde: its CIE's offset
        size_t body = 0;       // offset behind the CIE id or pointer
    };

    // The entry at an offset; kEnd at the zero terminator (.eh_frame) and at the section's end. After an error, the
    // offset of the next entry is unknown, too.
    Result<Entry> entry_at(size_t offset) const;

    Result<Cie> parse_cie(const Entry &entry) const;
    // The code [start, end) that an FDE covers. `cie` must be the CIE at entry.cie_offset, here and below.
    struct Range {
        LinkAddr start;
        LinkAddr end;
    };
    Result<Range> parse_range(const Entry &entry, const Cie &cie) const;
    Result<Fde> parse_fde(const Entry &entry, const Cie &cie) const;
    // Both functions above, for the FDE at an offset.
    Result<Fde> fde_at(size_t offset) const;

  private:
    Result<Range> parse_range(const Entry &entry, const Cie &cie, Cursor &cursor) const;

    SectionKind kind_;
    std::span<const uint8_t> bytes_;
    PointerBases bases_;
};

} // namespace dwunw::dwarf
