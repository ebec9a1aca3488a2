// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/eh_frame_hdr.h"

#include "base/cursor.h"
#include "dwarf/constants.h"
#include "dwarf/encoded_pointer.h"

#include <cstring>

namespace dwunw::dwarf {

std::optional<EhFrameHdr> EhFrameHdr::parse(std::span<const uint8_t> bytes, LinkAddr address) {
    Cursor cursor(bytes);
    const uint8_t version = cursor.u8();
    const uint8_t pointer_encoding = cursor.u8();
    const uint8_t count_encoding = cursor.u8();
    const uint8_t table_encoding = cursor.u8();
    constexpr uint8_t kTableEncoding = DW_EH_PE_datarel | DW_EH_PE_sdata4;
    if (!cursor.ok() || version != 1 || table_encoding != kTableEncoding || count_encoding == DW_EH_PE_omit)
        return std::nullopt;
    // Here datarel means this section.
    const PointerBases bases{address, LinkAddr(), address, LinkAddr()};
    if (!skip_encoded_pointer(cursor, pointer_encoding, bases))
        return std::nullopt;
    const auto count = read_encoded_pointer(cursor, count_encoding, bases);
    if (!count || *count > cursor.remaining() / kEntryBytes)
        return std::nullopt;
    return EhFrameHdr(cursor.take(*count * kEntryBytes), address);
}

LinkAddr EhFrameHdr::at(size_t index, size_t field) const {
    int32_t distance;
    std::memcpy(&distance, table_.data() + index * kEntryBytes + field * sizeof(distance), sizeof(distance));
    return address_ + static_cast<uint64_t>(int64_t{distance});
}

std::optional<LinkAddr> EhFrameHdr::find(LinkAddr address) const {
    // Addresses are compared as distances from here, as they are sorted.
    const auto wanted = static_cast<int64_t>(address - address_);
    size_t first = 0;
    size_t last = fde_count();
    while (first < last) {
        const size_t middle = first + (last - first) / 2;
        if (static_cast<int64_t>(at(middle, 0) - address_) <= wanted)
            first = middle + 1;
        else
            last = middle;
    }
    if (first == 0)
        return std::nullopt;
    return at(first - 1, 1);
}

} // namespace dwunw::dwarf
