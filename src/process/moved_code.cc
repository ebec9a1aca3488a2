// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/moved_code.h"

#include <algorithm>
#include <array>

namespace dwunw::process {
namespace {

constexpr uint64_t kPage = 4096;

bool same_piece(const Target &target, RunAddr start, const ByteSource &file, FileOffset offset,
                std::span<uint8_t> in_memory, std::span<uint8_t> in_file) {
    return target.read(start, in_memory) == in_memory.size() && file.read_exactly(offset, in_file) &&
           std::ranges::equal(in_memory, in_file);
}

} // namespace

std::vector<const Mapping *> moved_code_neighbours(const Maps &maps, const Mapping &mapping) {
    // Memory of other kinds may lie between a file's pieces.
    constexpr size_t kSearched = 16;
    std::vector<const Mapping *> found;
    if (!mapping.executable || mapping.writable || !mapping.readable)
        return found;
    const auto all = std::span(maps.mappings());
    const size_t index = maps.index_of(mapping);
    const auto is_file = [](const Mapping &other) {
        return other.kind == Mapping::Kind::kFile && !other.is_memory_file();
    };
    for (size_t i = index, steps = 0; i > 0 && steps < kSearched; ++steps)
        if (is_file(all[--i])) {
            found.push_back(&all[i]);
            break;
        }
    for (size_t i = index + 1, steps = 0; i < all.size() && steps < kSearched; ++i, ++steps)
        if (is_file(all[i])) {
            found.push_back(&all[i]);
            break;
        }
    return found;
}

std::optional<MovedCode> place_moved_code(const elf::Image &image, LoadBias bias, const Mapping &mapping) {
    const LinkAddr link = bias.link(mapping.start);
    const uint64_t length = mapping.end - mapping.start;
    for (const elf::Segment &segment : image.load_segments()) {
        if (!segment.executable || segment.file_size == 0)
            continue;
        // Mappings are made of pages: the segment's first page begins before the segment.
        const uint64_t before = segment.address.value % kPage;
        if (segment.offset.value % kPage != before || segment.file_size > ~uint64_t{0} - 2 * kPage)
            continue;
        const uint64_t size = segment.file_size + before;
        const uint64_t at = link - (segment.address - before);
        const uint64_t pages = (size + kPage - 1) & ~(kPage - 1);
        if (at >= size || length > pages - at)
            continue;
        return MovedCode{segment.offset - before + at, std::min(length, size - at)};
    }
    return std::nullopt;
}

bool same_bytes(const Target &target, RunAddr start, const ByteSource &file, const MovedCode &code) {
    // Most other memory differs at once.
    constexpr uint64_t kPiece = 256 << 10;
    std::vector<uint8_t> buffer(2 * std::min(kPiece, code.length));
    const auto in_memory = std::span(buffer).first(buffer.size() / 2);
    const auto in_file = std::span(buffer).last(buffer.size() / 2);
    for (uint64_t done = 0, size = 0; done < code.length; done += size) {
        size = std::min(done == 0 ? kPage : kPiece, code.length - done);
        if (!same_piece(target, start + done, file, code.offset + done, in_memory.first(size), in_file.first(size)))
            return false;
    }
    return true;
}

bool same_page(const Target &target, RunAddr start, const ByteSource &file, const MovedCode &code, RunAddr address) {
    const uint64_t at = (address - start) & ~(kPage - 1);
    if (at >= code.length)
        return true; // behind the file's code: there is nothing to compare
    std::array<uint8_t, 2 * kPage> buffer;
    const uint64_t size = std::min(kPage, code.length - at);
    const auto both = std::span(buffer);
    return same_piece(target, start + at, file, code.offset + at, both.first(size), both.last(size));
}

} // namespace dwunw::process
