// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// `readelf --debug-dump=frames-interp`, read back.
#pragma once

#include "rows.h"

namespace table_readelf {

struct ReadelfFde {
    uint32_t section = 0; // 0 .eh_frame, 1 .debug_frame: the order in which the library prefers them
    uint64_t offset = 0;  // in its section
    uint64_t start = 0;
    uint64_t end = 0;
    // What holds from where, ascending as printed; the end of each is the start of the next.
    struct Change {
        uint64_t start;
        uint32_t rule;
    };
    std::vector<Change> changes;
};

struct ReadelfDump {
    std::vector<ReadelfFde> fdes; // as printed
    // What readelf said besides, and lines this reader does not know, each with the entry it came after.
    std::vector<std::string> messages;
    int status = 0; // exit status
};

// Three things to know about the text. An entry that changes nothing has no row: an FDE without one has its CIE's. `u`
// says undefined as well as never mentioned; a return address is the former, another register is taken for the latter
// (where that is wrong, the comparison finds it and asks the judge). A register's name may have a space: "r1 (rdx)".
ReadelfDump read_readelf(const std::string &readelf, const std::string &path, Rules &rules);

} // namespace table_readelf
