// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One file's rows by readelf beside those by dwunw, and a judge's opinion on every difference.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace table_readelf {

struct Tools {
    std::string dwunw = "dwunw";
    std::string readelf = "readelf";
    bool judge_all = false; // ask the judge about every row, not only about differences
};

struct Comparison {
    // Neither side has an FDE: `no_cfi_reason` is what each says to that.
    bool no_cfi = false;
    std::string no_cfi_reason;

    uint64_t fdes = 0;        // readelf's
    uint64_t fdes_eh = 0;     // of them in .eh_frame
    uint64_t covered = 0;     // .debug_frame's, left out because .eh_frame's cover the place
    uint64_t repeated = 0;    // left out: another of the same section has the same start
    uint64_t overlapping = 0; // cut short by one that begins inside
    uint64_t tombstones = 0;
    uint64_t rows = 0;   // readelf's, of the FDEs dwunw took
    uint64_t judged = 0; // rows that the judge was asked about and confirmed (Tools::judge_all)

    // Each a line for the reader.
    std::vector<std::string> different;     // dwunw is wrong, or it cannot be decided
    std::vector<std::string> readelf_wrong; // the judge reads what dwunw reads
    std::vector<std::string> refused;       // by dwunw, and by libdw as well
    std::vector<std::string> messages;      // readelf's complaints

    // No error, and no difference but those that are readelf's.
    bool agrees() const { return different.empty(); }
};

// Throws if a tool cannot be run or its output is not understood.
Comparison compare(const Tools &tools, const std::string &path);

} // namespace table_readelf
