// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/cfi_section.h"

#include "dwarf/constants.h"

namespace dwunw::dwarf {
namespace {

constexpr uint64_t kAddressSize = 8;
// Real CIEs have fewer than a hundred bytes. A CIE is read for each FDE that names it, and CIEs may overlap: without a
// limit, a small hostile section could keep its reader busy for hours.
constexpr size_t kMaxCieBytes = 1024;
constexpr uint32_t kExtendedLength = 0xffffffff; // 64-bit DWARF: an 8-byte length follows

Error malformed(size_t offset) { return Error{DWUNW_ERR_CFI_MALFORMED, offset}; }

} // namespace

Result<CfiSection::Entry> CfiSection::entry_at(size_t offset) const {
    Entry entry;
    Cursor cursor(bytes_, offset);
    uint64_t length = 0;
    do {
        entry.offset = cursor.offset();
        if (cursor.ok() && cursor.at_end())
            return entry;
        length = cursor.u32();
        if (!cursor.ok())
            return malformed(entry.offset);
        // In .eh_frame a zero length ends the section; in .debug_frame it is padding between object files.
        if (length == 0 && kind_ == SectionKind::kEhFrame)
            return entry;
    } while (length == 0);
    offset = entry.offset;
    const bool is_64 = length == kExtendedLength;
    if (is_64)
        length = cursor.u64();
    const size_t id_offset = cursor.offset();
    if (!cursor.ok() || length > cursor.remaining())
        return malformed(offset);
    entry.next = id_offset + static_cast<size_t>(length);

    if (kind_ == SectionKind::kEhFrame) {
        // The field has four bytes in both length forms: 0, or the distance back from this field to the CIE.
        const uint32_t id = cursor.u32();
        if (!cursor.ok() || cursor.offset() > entry.next || id > id_offset)
            return malformed(offset);
        entry.kind = id == 0 ? Entry::Kind::kCie : Entry::Kind::kFde;
        entry.cie_offset = id_offset - id;
    } else {
        const uint64_t id = is_64 ? cursor.u64() : cursor.u32();
        const uint64_t cie_id = is_64 ? ~uint64_t{0} : uint64_t{0xffffffff};
        if (!cursor.ok() || cursor.offset() > entry.next)
            return malformed(offset);
        entry.kind = id == cie_id ? Entry::Kind::kCie : Entry::Kind::kFde;
        entry.cie_offset = static_cast<size_t>(id);
    }
    entry.body = cursor.offset();
    return entry;
}

Result<Cie> CfiSection::parse_cie(const Entry &entry) const {
    if (entry.kind != Entry::Kind::kCie)
        return malformed(entry.offset);
    if (entry.next - entry.body > kMaxCieBytes)
        return Error{DWUNW_ERR_LIMIT, entry.offset};
    Cursor cursor(bytes_.first(entry.next), entry.body);
    Cie cie;
    cie.offset = entry.offset;
    cie.version = cursor.u8();
    if (cie.version != 1 && cie.version != 3 && cie.version != 4)
        return malformed(entry.offset);
    const std::string_view augmentation = cursor.c_string();
    if (cie.version == 4) {
        const uint8_t address_size = cursor.u8();
        const uint8_t segment_selector_size = cursor.u8();
        if (address_size != kAddressSize || segment_selector_size != 0)
            return malformed(entry.offset);
    }
    std::string_view letters = augmentation;
    if (letters.starts_with("eh")) {
        // GCC 2's form has a pointer to its own exception table here.
        cursor.skip(kAddressSize);
        letters.remove_prefix(2);
    }
    cie.code_alignment = cursor.uleb128();
    cie.data_alignment = cursor.sleb128();
    cie.return_address_register = cie.version == 1 ? cursor.u8() : cursor.uleb128();
    if (!cursor.ok())
        return malformed(entry.offset);

    if (letters.starts_with('z')) {
        cie.has_augmentation_data = true;
        letters.remove_prefix(1);
        const uint64_t length = cursor.uleb128();
        if (!cursor.ok() || length > cursor.remaining())
            return malformed(entry.offset);
        const size_t data_end = cursor.offset() + static_cast<size_t>(length);
        // The augmentation data bounds the cursor, but its offsets stay section offsets, for pc-relative pointers.
        Cursor data(bytes_.first(data_end), cursor.offset());
        for (const char letter : letters) {
            switch (letter) {
            case 'R':
                cie.fde_encoding = data.u8();
                break;
            case 'P': {
                const uint8_t encoding = data.u8();
                if (auto status = skip_encoded_pointer(data, encoding, bases_); !status)
                    return malformed(entry.offset);
                break;
            }
            case 'L':
                cie.lsda_encoding = data.u8(); // of the pointer in the FDE's augmentation data
                break;
            case 'S':
                cie.signal_frame = true;
                break;
            default:
                // An unknown letter may change the meaning of the rows.
                return malformed(entry.offset);
            }
        }
        if (!data.ok())
            return malformed(entry.offset);
        cursor.skip(length);
    } else {
        // Without 'z' the length of an unknown letter's data is unknown; only 'S' has no data.
        for (const char letter : letters) {
            if (letter != 'S')
                return malformed(entry.offset);
            cie.signal_frame = true;
        }
    }
    cie.instructions_offset = cursor.offset();
    cie.instructions = cursor.take(cursor.remaining());
    return cie;
}

Result<CfiSection::Range> CfiSection::parse_range(const Entry &entry, const Cie &cie, Cursor &cursor) const {
    if (entry.kind != Entry::Kind::kFde)
        return malformed(entry.offset);
    const uint8_t encoding = kind_ == SectionKind::kEhFrame ? cie.fde_encoding : uint8_t{DW_EH_PE_absptr};
    auto start = read_encoded_pointer(cursor, encoding, bases_);
    if (!start)
        return start.error();
    auto length = read_encoded_length(cursor, encoding);
    if (!length)
        return length.error();
    const LinkAddr first(*start);
    if (first + *length < first)
        return malformed(entry.offset);
    return Range{first, first + *length};
}

Result<CfiSection::Range> CfiSection::parse_range(const Entry &entry, const Cie &cie) const {
    Cursor cursor(bytes_.first(entry.next), entry.body);
    return parse_range(entry, cie, cursor);
}

Result<Fde> CfiSection::parse_fde(const Entry &entry, const Cie &cie) const {
    Cursor cursor(bytes_.first(entry.next), entry.body);
    auto range = parse_range(entry, cie, cursor);
    if (!range)
        return range.error();
    Fde fde;
    fde.offset = entry.offset;
    fde.cie = cie;
    fde.start = range->start;
    fde.end = range->end;
    fde.bases = bases_;
    fde.bases.function = fde.start;
    if (cie.has_augmentation_data) {
        const uint64_t size = cursor.uleb128();
        fde.augmentation_offset = cursor.offset();
        cursor.skip(size);
    }
    if (!cursor.ok())
        return malformed(entry.offset);
    fde.instructions_offset = cursor.offset();
    fde.instructions = cursor.take(cursor.remaining());
    return fde;
}

Result<Fde> CfiSection::fde_at(size_t offset) const {
    auto entry = entry_at(offset);
    if (!entry)
        return entry.error();
    if (entry->kind != Entry::Kind::kFde)
        return malformed(offset);
    auto cie_entry = entry_at(entry->cie_offset);
    if (!cie_entry)
        return cie_entry.error();
    auto cie = parse_cie(*cie_entry);
    if (!cie)
        return cie.error();
    return parse_fde(*entry, *cie);
}

} // namespace dwunw::dwarf
