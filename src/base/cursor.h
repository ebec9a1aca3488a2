// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A bounded reader of little-endian bytes. A read past the end, or a LEB128 that does not fit 64 bits, makes the cursor
// fail permanently. A failed cursor yields zeroes and is at its end. So a parser checks ok() once for each record, and
// a loop with the condition at_end() always ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace dwunw {

class Cursor {
  public:
    Cursor() = default;
    explicit Cursor(std::span<const uint8_t> bytes, size_t offset = 0) : bytes_(bytes), offset_(offset) {
        if (offset > bytes.size())
            fail();
    }

    bool ok() const { return ok_; }
    bool at_end() const { return offset_ >= bytes_.size(); }
    size_t offset() const { return offset_; }
    size_t remaining() const { return bytes_.size() - offset_; }

    uint8_t u8() { return fixed<uint8_t>(); }
    uint16_t u16() { return fixed<uint16_t>(); }
    uint32_t u32() { return fixed<uint32_t>(); }
    uint64_t u64() { return fixed<uint64_t>(); }

    uint64_t uleb128() {
        // Nearly every LEB128 is a single byte.
        if (offset_ < bytes_.size() && bytes_[offset_] < 0x80)
            return bytes_[offset_++];
        return long_uleb128();
    }
    int64_t sleb128();

    void skip(uint64_t count) { take(count); }
    std::span<const uint8_t> take(uint64_t count) {
        if (count > remaining()) {
            fail();
            return {};
        }
        auto taken = bytes_.subspan(offset_, count);
        offset_ += count;
        return taken;
    }
    // A NUL-terminated string, without its NUL.
    std::string_view c_string();

    void fail() {
        ok_ = false;
        offset_ = bytes_.size();
    }

  private:
    uint64_t long_uleb128();
    template <typename T> T fixed() {
        T value = 0;
        if (remaining() < sizeof(T)) {
            fail();
            return 0;
        }
        std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
        offset_ += sizeof(T);
        return value;
    }

    std::span<const uint8_t> bytes_;
    size_t offset_ = 0;
    bool ok_ = true;
};

} // namespace dwunw
