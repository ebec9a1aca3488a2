// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Bytes as a file would be: read from while somebody counts, and changed, cut short or failing when a test says so.
#pragma once

#include "base/byte_source.h"

#include <atomic>
#include <cstdint>
#include <vector>

namespace dwunw::testing {

class WatchedSource final : public ByteSource {
  public:
    explicit WatchedSource(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}

    uint64_t size() const override { return bytes_.size(); }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
        ++reads;
        if (reads == changes_at)
            changed = true;
        if (offset.value >= cut)
            return 0;
        const size_t got =
            MemorySource(bytes_).read(offset, buffer.first(std::min<uint64_t>(buffer.size(), cut - offset.value)));
        bytes_read += got;
        return got;
    }
    bool unchanged() const override { return !changed; }

    mutable std::atomic<uint64_t> reads = 0;
    mutable std::atomic<uint64_t> bytes_read = 0;
    mutable std::atomic<bool> changed = false;
    uint64_t changes_at = 0;   // the read, from 1, while which it changes; 0: none
    uint64_t cut = UINT64_MAX; // nothing from here on

  private:
    std::vector<uint8_t> bytes_;
};

} // namespace dwunw::testing
