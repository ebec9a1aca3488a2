// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An ELF image copied out of a process's memory: the vDSO, which has no file, and files that cannot be opened any more.
//
// What lies at file offset X is found in the mapping of the file that holds X. Only mappings that the process cannot
// write are taken: what is written to (.data, .got) is no longer the file's. So section headers, which no mapping
// holds, are missing, and .eh_frame is found through the program headers. Copied at once, since the process may end.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"
#include "process/maps.h"

#include <memory>
#include <vector>

namespace dwunw::process {

class Target;

// The largest text of a program met in the wild is some 200 MB.
inline constexpr uint64_t kMaxMemoryImageBytes = uint64_t{256} << 20;

class MemoryImage final : public ByteSource {
  public:
    // The image that `mapping` is a part of. DWUNW_ERR_MEMORY_UNREADABLE, DWUNW_ERR_LIMIT; DWUNW_ERR_MODULE_CHANGED
    // when the mappings changed while they were copied.
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

// Where an image's bytes lie in memory: the mappings of the file that `mapping` is a part of, unwritable ones only,
// ascending by file offset. Of the vDSO, the mapping itself.
std::vector<const Mapping *> image_mappings(const Maps &maps, const Mapping &mapping);

// Whether two mappings that hold a common address put the same bytes of the same file there.
bool same_placement(const Mapping &a, const Mapping &b);

} // namespace dwunw::process
