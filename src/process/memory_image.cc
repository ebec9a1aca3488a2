// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/memory_image.h"

#include "process/target.h"

#include <algorithm>
#include <string_view>

namespace dwunw::process {

bool same_placement(const Mapping &a, const Mapping &b) {
    if (a.inode != b.inode || a.device_major != b.device_major || a.device_minor != b.device_minor)
        return false;
    // Memory without a file has no offset, and JIT compilers change its permissions back and forth.
    if (a.inode == 0)
        return true;
    return a.executable == b.executable && a.start.value - a.offset.value == b.start.value - b.offset.value;
}

std::vector<const Mapping *> image_mappings(const Maps &maps, const Mapping &mapping) {
    if (mapping.kind != Mapping::Kind::kFile)
        return {&mapping};
    std::vector<const Mapping *> found;
    for (const uint32_t number : maps.of_same_file(mapping))
        if (const Mapping &other = maps.mappings()[number]; other.readable && !other.writable)
            found.push_back(&other);
    std::ranges::stable_sort(found, {}, [](const Mapping *m) { return m->offset; });
    return found;
}

Result<std::unique_ptr<const MemoryImage>> MemoryImage::copy(const Maps &maps, const Mapping &mapping,
                                                             const Target &target) {
    std::unique_ptr<MemoryImage> image(new MemoryImage);
    uint64_t total = 0;
    for (const Mapping *source : image_mappings(maps, mapping)) {
        // The file is mapped twice here: the bytes are the same.
        const uint64_t skip = image->size_ > source->offset.value ? image->size_ - source->offset.value : 0;
        const uint64_t length = source->end - source->start;
        if (skip >= length)
            continue;
        total += length - skip;
        if (total > kMaxMemoryImageBytes)
            return Error{DWUNW_ERR_LIMIT, total};
        Part part{source->offset + skip, std::vector<uint8_t>(length - skip)};
        part.bytes.resize(target.read(source->start + skip, part.bytes));
        // Memory has no identity: the bytes count only if the mapping was still there after the read.
        if (!target.still_mapped(*source))
            return Error{DWUNW_ERR_MODULE_CHANGED, source->start.value};
        if (part.bytes.empty())
            continue;
        image->size_ = part.end();
        image->parts_.push_back(std::move(part));
    }
    if (image->parts_.empty())
        return Error{DWUNW_ERR_MEMORY_UNREADABLE, mapping.start.value};
    return std::unique_ptr<const MemoryImage>(std::move(image));
}

size_t MemoryImage::read(FileOffset offset, std::span<uint8_t> buffer) const {
    size_t done = 0;
    auto part = std::ranges::upper_bound(parts_, offset, {}, &Part::offset);
    if (part == parts_.begin())
        return 0;
    for (--part; part != parts_.end() && done < buffer.size(); ++part) {
        const uint64_t at = offset.value + done;
        if (at < part->offset.value || at >= part->end())
            break; // a hole: no mapping has these bytes
        const uint64_t within = at - part->offset.value;
        const size_t count = std::min<uint64_t>(buffer.size() - done, part->bytes.size() - within);
        std::memcpy(buffer.data() + done, part->bytes.data() + within, count);
        done += count;
    }
    return done;
}

size_t MemoryImage::hash() const {
    size_t hash = parts_.size();
    for (const Part &part : parts_) {
        const std::string_view bytes(reinterpret_cast<const char *>(part.bytes.data()), part.bytes.size());
        hash = hash * 31 + std::hash<std::string_view>()(bytes);
    }
    return hash;
}

} // namespace dwunw::process
