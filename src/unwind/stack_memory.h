// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The memory that a walk may read: first the captured slice, then each reader that the caller allowed, in order.
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <dwunw/unwind.h>

#include <array>
#include <cstring>
#include <span>

namespace dwunw::unwind {

class StackMemory {
  public:
    struct Reader {
        dwunw_read_memory_fn read = nullptr;
        void *arg = nullptr;
    };

    StackMemory(RunAddr slice_start, std::span<const uint8_t> slice) : start_(slice_start), slice_(slice) {}

    void add_reader(Reader reader) {
        if (reader.read != nullptr && reader_count_ < readers_.size())
            readers_[reader_count_++] = reader;
    }

    // `size` bytes (1 to 8), zero-extended. DWUNW_ERR_SLICE_EXHAUSTED: there is only a slice, and it does not hold the
    // bytes; or the bytes lie behind the slice and no reader could read them. DWUNW_ERR_MEMORY_UNREADABLE: the bytes
    // lie elsewhere and no reader could read them.
    Result<uint64_t> read(RunAddr address, size_t size) const {
        uint64_t value = 0;
        const uint64_t offset = address - start_;
        if (offset <= slice_.size() && size <= slice_.size() - offset) {
            std::memcpy(&value, slice_.data() + offset, size);
            return value;
        }
        for (size_t i = 0; i < reader_count_; ++i)
            if (readers_[i].read(readers_[i].arg, address.value, &value, size) == size)
                return value;
        const bool behind_slice = !slice_.empty() && offset < slice_.size() + kFarBehind;
        return Error{reader_count_ == 0 || behind_slice ? DWUNW_ERR_SLICE_EXHAUSTED : DWUNW_ERR_MEMORY_UNREADABLE,
                     address.value};
    }
    // The word at an address, if it lies in the slice.
    bool read_slice(RunAddr address, uint64_t *value) const {
        const uint64_t offset = address - start_;
        if (slice_.size() < sizeof(*value) || offset > slice_.size() - sizeof(*value))
            return false;
        std::memcpy(value, slice_.data() + offset, sizeof(*value));
        return true;
    }
    Result<uint64_t> read_word(RunAddr address) const { return read(address, sizeof(uint64_t)); }

  private:
    // A frame that reaches beyond the slice's end may be large. Farther addresses belong to another stack.
    static constexpr uint64_t kFarBehind = uint64_t{1} << 20;

    RunAddr start_;
    std::span<const uint8_t> slice_;
    std::array<Reader, 2> readers_;
    size_t reader_count_ = 0;
};

} // namespace dwunw::unwind
