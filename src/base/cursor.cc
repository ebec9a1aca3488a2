// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/cursor.h"

namespace dwunw {

// DWARF 5 §7.6. Padding bytes (0x80 … 0x00) are legal, so the length is bounded by the bytes and not by ten.
uint64_t Cursor::long_uleb128() {
    uint64_t value = 0;
    unsigned shift = 0;
    while (true) {
        if (at_end()) {
            fail();
            return 0;
        }
        const uint8_t byte = bytes_[offset_++];
        const uint64_t bits = byte & 0x7f;
        if (shift < 64) {
            if (shift == 63 && bits > 1) {
                fail();
                return 0;
            }
            value |= bits << shift;
        } else if (bits != 0) {
            fail();
            return 0;
        }
        if ((byte & 0x80) == 0)
            return value;
        if (shift < 64)
            shift += 7;
    }
}

int64_t Cursor::sleb128() {
    uint64_t value = 0;
    unsigned shift = 0;
    uint8_t byte = 0;
    do {
        if (at_end()) {
            fail();
            return 0;
        }
        byte = bytes_[offset_++];
        const uint64_t bits = byte & 0x7f;
        if (shift < 63) {
            value |= bits << shift;
        } else if (shift == 63) {
            // The last significant byte: bit 63 and its sign copies must agree.
            if (bits != 0 && bits != 0x7f) {
                fail();
                return 0;
            }
            value |= bits << 63;
        } else if (bits != ((value >> 63) ? 0x7fu : 0u)) {
            fail();
            return 0;
        }
        if (shift < 70)
            shift += 7;
    } while (byte & 0x80);
    if (shift < 64 && (byte & 0x40))
        value |= ~uint64_t{0} << shift;
    return static_cast<int64_t>(value);
}

std::string_view Cursor::c_string() {
    const uint8_t *begin = bytes_.data() + offset_;
    const void *nul = remaining() ? std::memchr(begin, 0, remaining()) : nullptr;
    if (nul == nullptr) {
        fail();
        return {};
    }
    const size_t length = static_cast<size_t>(static_cast<const uint8_t *>(nul) - begin);
    offset_ += length + 1;
    return {reinterpret_cast<const char *>(begin), length};
}

} // namespace dwunw
