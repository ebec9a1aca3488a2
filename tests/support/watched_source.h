// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A byte source that counts reads, and that a test can change, cut short, or let fail.
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
    uint64_t changes_at = 0;   // the read, counted from 1, during which the bytes change; 0: none
    uint64_t cut = UINT64_MAX; // no bytes from here on

  private:
    std::vector<uint8_t> bytes_;
};

} // namespace dwunw::testing
