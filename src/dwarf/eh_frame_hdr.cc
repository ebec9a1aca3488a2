// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/eh_frame_hdr.h"

#include "base/cursor.h"
#include "dwarf/constants.h"
#include "dwarf/encoded_pointer.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace dwunw::dwarf {

std::optional<EhFrameHdr> EhFrameHdr::parse(const LazySection &section) {
    // The fields before the table take some twelve bytes.
    constexpr size_t kMaxBeforeTable = 64;
    const auto bytes = section.load(0, kMaxBeforeTable);
    if (!bytes)
        return std::nullopt;
    Cursor cursor(bytes->first(std::min(bytes->size(), kMaxBeforeTable)));
    const uint8_t version = cursor.u8();
    const uint8_t pointer_encoding = cursor.u8();
    const uint8_t count_encoding = cursor.u8();
    const uint8_t table_encoding = cursor.u8();
    constexpr uint8_t kTableEncoding = DW_EH_PE_datarel | DW_EH_PE_sdata4;
    if (!cursor.ok() || version != 1 || table_encoding != kTableEncoding || count_encoding == DW_EH_PE_omit)
        return std::nullopt;
    // Here datarel means this section.
    const PointerBases bases{section.address(), LinkAddr(), section.address(), LinkAddr()};
    if (!skip_encoded_pointer(cursor, pointer_encoding, bases))
        return std::nullopt;
    const auto count = read_encoded_pointer(cursor, count_encoding, bases);
    if (!count || *count > (section.size() - cursor.offset()) / kEntryBytes)
        return std::nullopt;
    return EhFrameHdr(section, cursor.offset(), *count);
}

Result<EhFrameHdr::Entry> EhFrameHdr::entry(size_t index) const {
    const size_t offset = table_ + index * kEntryBytes;
    const auto bytes = section_->load(offset, kEntryBytes);
    if (!bytes)
        return bytes.error();
    std::array<int32_t, 2> distances;
    static_assert(sizeof(distances) == kEntryBytes);
    std::memcpy(distances.data(), bytes->data() + offset, kEntryBytes);
    const auto at = [this](int32_t distance) { return section_->address() + static_cast<uint64_t>(int64_t{distance}); };
    return Entry{at(distances[0]), at(distances[1])};
}

Result<size_t> EhFrameHdr::count_until(LinkAddr address) const {
    // The table is sorted by distance from the section's address, so compare these distances.
    const auto wanted = static_cast<int64_t>(address - section_->address());
    size_t first = 0;
    size_t last = count_;
    while (first < last) {
        const size_t middle = first + (last - first) / 2;
        const auto found = entry(middle);
        if (!found)
            return found.error();
        if (static_cast<int64_t>(found->start - section_->address()) <= wanted)
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

} // namespace dwunw::dwarf
