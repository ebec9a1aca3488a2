// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A third reading, by elfutils' libdw, for where readelf and dwunw differ and where readelf complains.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace table_readelf {

class LibdwJudge {
  public:
    // A file that libdw cannot read has no rule anywhere.
    explicit LibdwJudge(const std::string &path);
    ~LibdwJudge();
    LibdwJudge(const LibdwJudge &) = delete;
    LibdwJudge &operator=(const LibdwJudge &) = delete;

    struct Opinion {
        std::string rule;  // as `dwunw table` writes it; empty: none
        std::string error; // why there is none
        uint64_t end = 0;  // where it ceases to hold; without a rule the next address
    };
    // The rule in force at an address: .eh_frame's where that covers it, else .debug_frame's.
    Opinion at(uint64_t address) const;

  private:
    struct File;
    std::unique_ptr<File> file_;
};

} // namespace table_readelf
