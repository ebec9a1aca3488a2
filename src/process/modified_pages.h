// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The pages of a private file mapping that are not the file's any more: those that were written to (proc(5), pagemap).
//
// A mapping can be terabytes large and hold nothing. So the work goes by the pages that are there: PAGEMAP_SCAN (Linux
// 6.7) skips what has no page table. Without it every page has its eight bytes; behind the first kReadAnyway of them,
// smaps tells which mappings have a page of their own at all, and only those are read.
//
// One thread's.
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

    // `process` outlives it.
    explicit ModifiedPages(const ProcDir &process, Method method = Method::kScan);

    // Ascending, not touching; nullopt where the kernel does not tell.
    std::optional<std::vector<Range>> of(const Mapping &mapping);

    // How many pages were asked for one by one.
    uint64_t pages_read() const { return pages_read_; }

  private:
    std::optional<std::vector<Range>> scan(const Mapping &mapping) const;
    std::optional<std::vector<Range>> read(const Mapping &mapping);
    bool may_have_any(const Mapping &mapping);
    // The mappings of smaps that have pages of their own; nullopt where it cannot be read.
    std::optional<std::vector<Range>> read_smaps() const;

    const ProcDir &process_;
    Method method_;
    std::optional<UniqueFd> pagemap_;
    uint64_t pages_read_ = 0;
    bool smaps_read_ = false;
    std::optional<std::vector<Range>> with_pages_;
};

} // namespace dwunw::process
