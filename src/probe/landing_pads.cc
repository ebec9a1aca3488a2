// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "probe/landing_pads.h"

#include "dwarf/constants.h"

#include <optional>

namespace dwunw::probe {

using dwarf::CfiSection;

namespace {

// The LSDA of an FDE. A null pointer (in the file, before its base is added) means none.
Result<std::optional<LinkAddr>> lsda_of(const CfiSection &section, const dwarf::Fde &fde) {
    const uint8_t encoding = fde.cie.lsda_encoding;
    if (encoding == dwarf::DW_EH_PE_omit || !fde.cie.has_augmentation_data)
        return std::optional<LinkAddr>();
    Cursor value(section.bytes().first(fde.instructions_offset), fde.augmentation_offset);
    Cursor pointer = value;
    const auto raw = dwarf::read_encoded_length(value, encoding);
    if (!raw)
        return raw.error();
    if (*raw == 0)
        return std::optional<LinkAddr>();
    const auto address = dwarf::read_encoded_pointer(pointer, encoding, fde.bases);
    if (!address)
        return address.error();
    return std::optional(LinkAddr(*address));
}

Result<bool> pad_in_table(const SectionBytes &except_table, LinkAddr lsda, const dwarf::Fde &fde, EntryRange range) {
    const Error malformed{DWUNW_ERR_CFI_MALFORMED, lsda.value};
    const uint64_t offset = lsda - except_table.address;
    if (offset >= except_table.bytes.size())
        return malformed;
    Cursor cursor(except_table.bytes, static_cast<size_t>(offset));
    dwarf::PointerBases bases = fde.bases;
    bases.section = except_table.address;

    LinkAddr pads_base = fde.start;
    if (const uint8_t encoding = cursor.u8(); encoding != dwarf::DW_EH_PE_omit) {
        const auto base = dwarf::read_encoded_pointer(cursor, encoding, bases);
        if (!base)
            return base.error();
        pads_base = LinkAddr(*base);
    }
    if (cursor.u8() != dwarf::DW_EH_PE_omit)
        cursor.uleb128(); // offset of the end of the types
    const uint8_t encoding = cursor.u8();
    const uint64_t length = cursor.uleb128();
    Cursor sites(cursor.take(length));
    if (!cursor.ok())
        return malformed;
    while (!sites.at_end()) {
        const auto start = dwarf::read_encoded_length(sites, encoding);
        const auto size = dwarf::read_encoded_length(sites, encoding);
        const auto pad = dwarf::read_encoded_length(sites, encoding);
        sites.uleb128(); // action
        if (!start || !size || !pad || !sites.ok())
            return malformed;
        if (*pad != 0 && range.contains(pads_base + *pad))
            return true;
    }
    return false;
}

} // namespace

Result<bool> has_landing_pad(const CfiSection &eh_frame, const SectionBytes &except_table, EntryRange range) {
    std::optional<dwarf::Cie> cie; // FDEs of one CIE mostly follow each other
    for (size_t offset = 0;;) {
        const auto entry = eh_frame.entry_at(offset);
        if (!entry)
            return entry.error();
        if (entry->kind == CfiSection::Entry::Kind::kEnd)
            return false;
        offset = entry->next;
        if (entry->kind != CfiSection::Entry::Kind::kFde)
            continue;
        if (!cie || cie->offset != entry->cie_offset) {
            const auto cie_entry = eh_frame.entry_at(entry->cie_offset);
            if (!cie_entry)
                return cie_entry.error();
            const auto parsed = eh_frame.parse_cie(*cie_entry);
            if (!parsed)
                return parsed.error();
            cie = *parsed;
        }
        const auto fde = eh_frame.parse_fde(*entry, *cie);
        if (!fde)
            return fde.error();
        const auto lsda = lsda_of(eh_frame, *fde);
        if (!lsda)
            return lsda.error();
        if (!*lsda)
            continue;
        const auto found = pad_in_table(except_table, **lsda, *fde, range);
        if (!found || *found)
            return found;
    }
}

} // namespace dwunw::probe
