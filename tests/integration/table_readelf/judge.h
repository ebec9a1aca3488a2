// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A third reading, for where readelf and dwunw differ: by elfutils' libdw, and where that finds nothing by the
// reference interpreter of tests/support, which shares no code with the library. libdw takes a zero length in
// .debug_frame, which is padding, for the section's end, and then knows nothing of what follows.
#pragma once

#include "reference_cfi.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace table_readelf {

class Judge {
  public:
    // A file that cannot be read has no rule anywhere.
    explicit Judge(const std::string &path);
    ~Judge();
    Judge(const Judge &) = delete;
    Judge &operator=(const Judge &) = delete;

    struct Opinion {
        std::string by;    // who says so
        std::string rule;  // as `dwunw table` writes it; empty: none
        std::string error; // why there is none
        uint64_t end = 0;  // where it ceases to hold; without a rule the next address

        std::string text() const { return by + ": " + (rule.empty() ? error : rule); }
    };
    // The rule in force at an address: .eh_frame's where that covers it, else .debug_frame's.
    Opinion libdw(uint64_t address) const;
    // libdw's opinion; where it has none, the reference interpreter's.
    Opinion at(uint64_t address);

  private:
    Opinion reference(uint64_t address);

    struct File;
    std::unique_ptr<File> file_;
    std::optional<std::vector<dwunw::reference::Fde>> fdes_[2]; // as the reference interpreter reads them, by start
};

} // namespace table_readelf
