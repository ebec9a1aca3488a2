// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An ELF image that is copied from a process's memory: the vDSO, which has no file, and files that cannot be opened any
// more.
//
//     file offset    0x0000            0x1000               0x3000
//     mappings       | r--  headers    | r-x  text          | rw-  .data, .got: left out      section headers: not
//     mapped
//
// The bytes at file offset X come from the mapping of the file that holds X. Only mappings that the process cannot
// write count, because a process changes the others. Section headers, which no mapping holds, are missing, so .eh_frame
// is found through the program headers. Everything is copied at once, because the process may end.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"
#include "process/maps.h"

#include <memory>
#include <vector>

namespace dwunw::process {

class Target;

// The largest text of a real program is some 200 MB.
inline constexpr uint64_t kMaxMemoryImageBytes = uint64_t{256} << 20;

class MemoryImage final : public ByteSource {
  public:
    // Copies the image to which `mapping` belongs. DWUNW_ERR_MEMORY_UNREADABLE, DWUNW_ERR_LIMIT;
    // DWUNW_ERR_MODULE_CHANGED: the mappings changed during the copy.
    static Result<std::unique_ptr<const MemoryImage>> copy(const Maps &maps, const Mapping &mapping,
                                                           const Target &target);

    uint64_t size() const override { return size_; }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override;

    bool operator==(const MemoryImage &other) const { return size_ == other.size_ && parts_ == other.parts_; }
    size_t hash() const;

  private:
    struct Part {
        FileOffset offset;
        std::vector<uint8_t> bytes;
        uint64_t end() const { return offset.value + bytes.size(); }
        bool operator==(const Part &) const = default;
    };
    MemoryImage() = default;

    std::vector<Part> parts_; // ascending, not overlapping
    uint64_t size_ = 0;
};

// The mappings that hold an image's bytes: the unwritable mappings of the file of `mapping`, in ascending order of file
// offset. For the vDSO, the mapping itself.
std::vector<const Mapping *> image_mappings(const Maps &maps, const Mapping &mapping);

// Whether two mappings of a common address put the same bytes of the same file there.
bool same_placement(const Mapping &a, const Mapping &b);

} // namespace dwunw::process
