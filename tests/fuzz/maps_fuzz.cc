// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Parses any text as /proc/PID/maps. Proves that the mappings ascend without overlap, that each is found at its first
// and last byte and nowhere else, and that a text which is right in the strict order gives the same map in the live
// one.
#include "process/maps.h"

#include "fuzz.h"

namespace dwunw {
namespace {

using fuzz::require;
using process::Maps;

void check(const Maps &maps) {
    RunAddr end;
    for (const process::Mapping &mapping : maps.mappings()) {
        require(mapping.start < mapping.end && end <= mapping.start, "mappings ascend and do not overlap");
        if (end < mapping.start)
            require(maps.find(end) == nullptr && maps.find(mapping.start - 1) == nullptr,
                    "nothing is mapped between two mappings");
        require(maps.find(mapping.start) == &mapping && maps.find(mapping.end - 1) == &mapping,
                "a mapping is found at both its ends");
        end = mapping.end;
    }
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    const std::vector<char> text(data, data + size);
    const auto strict = Maps::parse(text, Maps::Order::kStrict);
    const auto live = Maps::parse(text, Maps::Order::kLive);
    if (live)
        check(*live);
    if (strict) {
        check(*strict);
        require(live.ok() && strict->mappings() == live->mappings(), "without overlaps the order is the same");
    } else {
        require(strict.error().status == DWUNW_ERR_MAPS_MALFORMED && strict.error().value != 0,
                "an error names its line");
    }
    return 0;
}
