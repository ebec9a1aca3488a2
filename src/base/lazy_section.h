// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A section whose bytes are read piece by piece, as they are asked for: one FDE of a library's 10 MB of .eh_frame is
// worth two pages of it. The pieces lie where they do in the section, so that offsets stay what they are, and whoever
// parses sees the section whole; what was not loaded reads as zeroes, which is why only load() hands out bytes.
//
// A piece counts only if, once it is read, the source is still what it was at opening. So pieces are of one file.
//
// Thread-safe. Proved by tests/unit/base_lazy_section_test, and by unwind_fde_reader_test, where a module in pieces
// says the same as one whose section is at hand.
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
    // Up to here a section is read at once, as one piece.
    static constexpr size_t kReadAtOnce = size_t{32} << 10;
    static constexpr size_t kPiece = size_t{4} << 10;

    // Bytes that are written before they are read: from the heap, or, where they are many, from the system, which has
    // them back at once.
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

    // All there already.
    LazySection(SectionBytes section); // NOLINT(google-explicit-constructor)
    // The source's bytes [offset, offset + size), which must lie within it.
    LazySection(std::shared_ptr<const ByteSource> source, FileOffset offset, size_t size, LinkAddr address);

    LinkAddr address() const { return address_; }
    size_t size() const { return size_; }

    // The section, in which [offset, offset + length), as far as the section goes, may be read. The bytes live as long
    // as this. DWUNW_ERR_MODULE_CHANGED, DWUNW_ERR_IO.
    Result<std::span<const uint8_t>> load(size_t offset, size_t length) const;

    // Every byte: those that are all there already, or a copy that keeps nothing here. load()'s errors.
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

    // The same, with nothing read of it yet; nothing where the bytes are at hand and come from nowhere.
    std::optional<LazySection> unread() const;

    // What it holds by now.
    size_t memory_bytes() const;

  private:
    size_t piece_size() const { return size_ <= kReadAtOnce ? kReadAtOnce : kPiece; }
    Status read(size_t offset, std::span<uint8_t> buffer) const;
    bool holds(size_t first, size_t last) const; // pieces

    std::vector<uint8_t> bytes_;
    std::shared_ptr<const ByteSource> source_; // nullptr: bytes_ is all
    FileOffset offset_;
    size_t size_;
    LinkAddr address_;

    struct Pieces {
        std::mutex mutex; // of who reads
        Buffer bytes;
        std::vector<std::atomic<uint64_t>> held; // a bit a piece
        std::atomic<size_t> count = 0;
        std::atomic<bool> ready = false; // bytes and held are there
    };
    std::unique_ptr<Pieces> pieces_;
};

} // namespace dwunw
