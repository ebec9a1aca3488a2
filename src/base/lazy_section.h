// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A section whose bytes are read piece by piece, when they are needed:
//
//     section    | piece 0 | piece 1 | piece 2 | piece 3 | …      10 MB of .eh_frame
//     loaded               |  FDE 17 |                            load(offset, length) has read piece 1
//
// One FDE of a big library takes two pages. A piece lies at its own offset in the section, so all offsets stay valid,
// and a parser sees the whole section. Bytes that were not loaded read as zeroes; therefore only load() gives out
// bytes.
//
// A piece counts only if the source is unchanged after the read. So all pieces are of the same file.
//
// Thread-safe. Proved by tests/unit/base_lazy_section_test, and by unwind_fde_search_test, in which a module in pieces
// gives the same answers as a module whose section is in memory.
#pragma once

#include "base/address.h"
#include "base/byte_source.h"
#include "base/pages.h"
#include "base/result.h"
#include "base/section_bytes.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace dwunw {

class LazySection {
  public:
    // A section of at most this size is read at once, as one piece.
    static constexpr size_t kReadAtOnce = size_t{32} << 10;
    static constexpr size_t kPiece = size_t{4} << 10;

    // Uninitialised memory for bytes that are written before they are read: from the heap, or, if there are many, from
    // the system, which gets them back at once.
    class Buffer {
      public:
        Buffer() = default;
        Buffer(size_t size, Pages::There there)
            : small_(size <= kFromHeap ? std::make_unique_for_overwrite<uint8_t[]>(size) : nullptr),
              large_(size <= kFromHeap ? 0 : size, there), size_(size) {}
        std::span<uint8_t> bytes() const { return small_ != nullptr ? std::span(small_.get(), size_) : large_.bytes(); }

      private:
        static constexpr size_t kFromHeap = size_t{64} << 10;
        std::unique_ptr<uint8_t[]> small_;
        Pages large_;
        size_t size_ = 0;
    };

    // A section that is in memory already.
    LazySection(SectionBytes section); // NOLINT(google-explicit-constructor)
    // The source's bytes [offset, offset + size), which must lie within it.
    LazySection(std::shared_ptr<const ByteSource> source, FileOffset offset, size_t size, LinkAddr address);

    LinkAddr address() const { return address_; }
    size_t size() const { return size_; }

    // Loads [offset, offset + length), cut at the section's end, and returns the whole section; only the loaded bytes
    // are valid. The bytes live as long as this. DWUNW_ERR_MODULE_CHANGED, DWUNW_ERR_IO.
    Result<std::span<const uint8_t>> load(size_t offset, size_t length) const;

    // Every byte of the section: the bytes in memory, or a copy that is not kept here. load()'s errors.
    class Whole {
      public:
        explicit Whole(std::span<const uint8_t> bytes) : bytes_(bytes) {}
        explicit Whole(Buffer copy) : copy_(std::move(copy)), bytes_(copy_.bytes()) {}
        std::span<const uint8_t> bytes() const { return bytes_; }

      private:
        Buffer copy_;
        std::span<const uint8_t> bytes_;
    };
    Result<Whole> whole() const;

    // The same section with nothing loaded; nullopt if the bytes are in memory and have no source.
    std::optional<LazySection> unread() const;

    // The memory that this holds now.
    size_t memory_bytes() const;

  private:
    size_t piece_size() const { return size_ <= kReadAtOnce ? kReadAtOnce : kPiece; }
    Status read(size_t offset, std::span<uint8_t> buffer) const;
    bool holds(size_t first, size_t last) const; // pieces

    std::vector<uint8_t> bytes_;
    std::shared_ptr<const ByteSource> source_; // nullptr: bytes_ is the whole section
    FileOffset offset_;
    size_t size_;
    LinkAddr address_;

    struct Pieces {
        std::mutex mutex; // held while a thread reads
        Buffer bytes;
        std::vector<std::atomic<uint64_t>> held; // one bit for each piece
        std::atomic<size_t> count = 0;
        std::atomic<bool> ready = false; // bytes and held are allocated
    };
    std::unique_ptr<Pieces> pieces_;
};

} // namespace dwunw
