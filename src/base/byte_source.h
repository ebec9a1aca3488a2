// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The source of an ELF image's bytes: memory, a file read with pread, or another process. The layers that parse do not
// know which. No source maps a file: if a file is truncated under a mapping, SIGBUS kills the reader.
#pragma once

#include "base/address.h"

#include <algorithm>
#include <cstring>
#include <span>

namespace dwunw {

class ByteSource {
  public:
    virtual ~ByteSource() = default;
    virtual uint64_t size() const = 0;
    // Reads up to buffer.size() bytes at `offset`; returns how many were read, 0 past the end or on error. Thread-safe.
    virtual size_t read(FileOffset offset, std::span<uint8_t> buffer) const = 0;

    // Whether the bytes are the same as at opening. If so, everything that was read before is of one version.
    virtual bool unchanged() const { return true; }

    bool read_exactly(FileOffset offset, std::span<uint8_t> buffer) const {
        return read(offset, buffer) == buffer.size();
    }
};

// Bytes in memory; does not own them.
class MemorySource final : public ByteSource {
  public:
    explicit MemorySource(std::span<const uint8_t> bytes) : bytes_(bytes) {}
    uint64_t size() const override { return bytes_.size(); }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
        if (buffer.empty() || offset.value >= bytes_.size())
            return 0;
        const size_t count = std::min<uint64_t>(buffer.size(), bytes_.size() - offset.value);
        std::memcpy(buffer.data(), bytes_.data() + offset.value, count);
        return count;
    }

  private:
    std::span<const uint8_t> bytes_;
};

} // namespace dwunw
