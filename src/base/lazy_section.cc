// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/lazy_section.h"

#include <algorithm>

namespace dwunw {

LazySection::LazySection(SectionBytes section)
    : bytes_(std::move(section.bytes)), size_(bytes_.size()), address_(section.address) {}

LazySection::LazySection(std::shared_ptr<const ByteSource> source, FileOffset offset, size_t size, LinkAddr address)
    : source_(std::move(source)), offset_(offset), size_(size), address_(address), pieces_(std::make_unique<Pieces>()) {
}

Status LazySection::read(size_t offset, std::span<uint8_t> buffer) const {
    const bool complete = source_->read_exactly(offset_ + offset, buffer);
    if (!source_->unchanged())
        return Error{DWUNW_ERR_MODULE_CHANGED, (offset_ + offset).value};
    if (!complete)
        return Error{DWUNW_ERR_IO, (offset_ + offset).value};
    return {};
}

bool LazySection::holds(size_t first, size_t last) const {
    for (size_t piece = first; piece < last; ++piece)
        if ((pieces_->held[piece / 64].load(std::memory_order_acquire) >> piece % 64 & 1) == 0)
            return false;
    return true;
}

Result<std::span<const uint8_t>> LazySection::load(size_t offset, size_t length) const {
    if (source_ == nullptr)
        return std::span<const uint8_t>(bytes_);
    Pieces &pieces = *pieces_;
    const size_t piece_size = this->piece_size();
    const size_t begin = std::min(offset, size_);
    const size_t end = begin + std::min(length, size_ - begin);
    const size_t first = begin / piece_size;
    const size_t last = (end + piece_size - 1) / piece_size;
    if (pieces.ready.load(std::memory_order_acquire) && holds(first, last))
        return std::span<const uint8_t>(pieces.bytes.bytes());

    const std::lock_guard lock(pieces.mutex);
    if (!pieces.ready.load(std::memory_order_relaxed)) {
        pieces.held = std::vector<std::atomic<uint64_t>>(size_ / piece_size / 64 + 1);
        pieces.bytes = Buffer(size_, Pages::There::kAsTouched);
        pieces.ready.store(true, std::memory_order_release);
    }
    for (size_t piece = first; piece < last;) {
        if (holds(piece, piece + 1)) {
            ++piece;
            continue;
        }
        size_t after = piece + 1;
        while (after < last && !holds(after, after + 1))
            ++after;
        const size_t from = piece * piece_size;
        const size_t to = std::min(after * piece_size, size_);
        if (auto status = read(from, pieces.bytes.bytes().subspan(from, to - from)); !status)
            return status.error();
        for (; piece < after; ++piece) {
            pieces.held[piece / 64].fetch_or(uint64_t{1} << piece % 64, std::memory_order_release);
            pieces.count.fetch_add(1, std::memory_order_relaxed);
        }
    }
    return std::span<const uint8_t>(pieces.bytes.bytes());
}

Result<LazySection::Whole> LazySection::whole() const {
    if (source_ == nullptr)
        return Whole(std::span<const uint8_t>(bytes_));
    Buffer copy(size_, Pages::There::kAll);
    if (auto status = read(0, copy.bytes()); !status)
        return status.error();
    return Whole(std::move(copy));
}

std::optional<LazySection> LazySection::unread() const {
    if (source_ == nullptr)
        return std::nullopt;
    return LazySection(source_, offset_, size_, address_);
}

size_t LazySection::memory_bytes() const {
    if (source_ == nullptr)
        return bytes_.capacity();
    return std::min(pieces_->count.load(std::memory_order_relaxed) * piece_size(), size_);
}

} // namespace dwunw
