// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/encoded_pointer.h"

#include "dwarf/constants.h"

namespace dwunw::dwarf {
namespace {

Error malformed(uint8_t encoding) { return Error{DWUNW_ERR_CFI_MALFORMED, encoding}; }

Result<uint64_t> read_format(Cursor &cursor, uint8_t encoding) {
    uint64_t value = 0;
    switch (encoding & DW_EH_PE_format_mask) {
    case DW_EH_PE_absptr:
    case DW_EH_PE_udata8:
    case DW_EH_PE_sdata8:
    case DW_EH_PE_signed: // absptr, signed: all of 64 bits
        value = cursor.u64();
        break;
    case DW_EH_PE_uleb128:
        value = cursor.uleb128();
        break;
    case DW_EH_PE_sleb128:
        value = static_cast<uint64_t>(cursor.sleb128());
        break;
    case DW_EH_PE_udata2:
        value = cursor.u16();
        break;
    case DW_EH_PE_sdata2:
        value = static_cast<uint64_t>(int64_t{static_cast<int16_t>(cursor.u16())});
        break;
    case DW_EH_PE_udata4:
        value = cursor.u32();
        break;
    case DW_EH_PE_sdata4:
        value = static_cast<uint64_t>(int64_t{static_cast<int32_t>(cursor.u32())});
        break;
    default:
        return malformed(encoding);
    }
    if (!cursor.ok())
        return malformed(encoding);
    return value;
}

// The encoding that linkers write, a hundred thousand times in a module.
constexpr uint8_t kUsualEncoding = DW_EH_PE_pcrel | DW_EH_PE_sdata4;

Result<uint64_t> read_usual(Cursor &cursor, uint64_t base) {
    const auto value = static_cast<uint64_t>(int64_t{static_cast<int32_t>(cursor.u32())});
    if (!cursor.ok())
        return malformed(kUsualEncoding);
    return value + base;
}

} // namespace

Result<uint64_t> read_encoded_pointer(Cursor &cursor, uint8_t encoding, const PointerBases &bases) {
    if (encoding == kUsualEncoding) [[likely]]
        return read_usual(cursor, bases.section.value + cursor.offset());
    if (encoding == DW_EH_PE_omit || (encoding & DW_EH_PE_indirect) != 0)
        return malformed(encoding);
    uint64_t base = 0;
    switch (encoding & DW_EH_PE_application_mask) {
    case 0:
        break;
    case DW_EH_PE_pcrel:
        base = bases.section.value + cursor.offset();
        break;
    case DW_EH_PE_textrel:
        base = bases.text.value;
        break;
    case DW_EH_PE_datarel:
        base = bases.data.value;
        break;
    case DW_EH_PE_funcrel:
        base = bases.function.value;
        break;
    case DW_EH_PE_aligned: {
        // The field is an address-sized one at the next aligned address; the format bits do not matter.
        constexpr uint64_t kAddressSize = 8;
        cursor.skip(-(bases.section.value + cursor.offset()) & (kAddressSize - 1));
        return read_format(cursor, DW_EH_PE_absptr);
    }
    default:
        return malformed(encoding);
    }
    auto value = read_format(cursor, encoding);
    if (!value)
        return value;
    return *value + base;
}

Result<uint64_t> read_encoded_length(Cursor &cursor, uint8_t encoding) {
    if (encoding == kUsualEncoding) [[likely]]
        return read_usual(cursor, 0);
    if ((encoding & DW_EH_PE_application_mask) == DW_EH_PE_aligned)
        return read_format(cursor, DW_EH_PE_absptr);
    return read_format(cursor, encoding);
}

Status skip_encoded_pointer(Cursor &cursor, uint8_t encoding, const PointerBases &bases) {
    if (encoding == DW_EH_PE_omit)
        return {};
    auto value = read_encoded_pointer(cursor, static_cast<uint8_t>(encoding & ~DW_EH_PE_indirect), bases);
    return value ? Status() : Status(value.error());
}

} // namespace dwunw::dwarf
