// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// `dwunw table`, read back.
#pragma once

#include "rows.h"

namespace table_readelf {

struct DwunwTable {
    std::vector<Row> rows; // as printed
    uint64_t fdes = 0;     // compiled
    uint64_t tombstones = 0;
    struct Refusal {
        uint64_t offset; // of the FDE or CIE in its section
        uint64_t start;  // 0: unknown
        std::string reason;
    };
    std::vector<Refusal> refusals;
    std::string error; // why there is no table; empty: there is one
};

// Throws std::runtime_error on output it does not understand.
DwunwTable read_dwunw(const std::string &dwunw, const std::string &path, Rules &rules);

} // namespace table_readelf
