// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds the pages of a private file mapping that differ from the file, because the process has written to them
// (proc(5), pagemap).
//
//     a mapping of 1 TiB:    | file's page | file's page | written | not touched … |       answer: the third page
//
// A mapping can be terabytes large and hold nothing, so the work must grow with the pages that exist. PAGEMAP_SCAN
// (Linux 6.7) skips everything without a page table. Without it, pagemap has eight bytes for every page. After the
// first kReadAnyway pages, smaps tells which mappings have pages of their own, and only those are read.
//
// One thread at a time.
#pragma once

#include "process/maps.h"
#include "process/proc_dir.h"

#include <optional>
#include <vector>

namespace dwunw::process {

class ModifiedPages {
  public:
    struct Range {
        uint64_t start;
        uint64_t end;
        bool operator==(const Range &) const = default;
    };
    enum class Method : uint8_t { kScan, kPageMap };
    static constexpr uint64_t kReadAnyway = uint64_t{1} << 24; // 64 GiB of mappings: some 60 ms

    // `process` must outlive this.
    explicit ModifiedPages(const ProcDir &process, Method method = Method::kScan);

    // Ascending, not adjacent. nullopt: the kernel does not tell.
    std::optional<std::vector<Range>> of(const Mapping &mapping);

    // The number of pages that were asked for one by one.
    uint64_t pages_read() const { return pages_read_; }

  private:
    std::optional<std::vector<Range>> scan(const Mapping &mapping) const;
    std::optional<std::vector<Range>> read(const Mapping &mapping);
    bool may_have_any(const Mapping &mapping);
    // The mappings in smaps that have pages of their own; nullopt: smaps cannot be read.
    std::optional<std::vector<Range>> read_smaps() const;

    const ProcDir &process_;
    Method method_;
    std::optional<UniqueFd> pagemap_;
    uint64_t pages_read_ = 0;
    bool smaps_read_ = false;
    std::optional<std::vector<Range>> with_pages_;
};

} // namespace dwunw::process
