// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Shared by the fuzz targets. Inputs are read with base/cursor.h: behind the end of an input there are only zeroes.
#pragma once

#include "base/cursor.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace dwunw::fuzz {

// What a target claims. Where it does not hold, the fuzzer keeps the input.
inline void require(bool holds, const char *claim) {
    if (holds)
        return;
    std::fprintf(stderr, "does not hold: %s\n", claim);
    std::abort();
}

// Up to `count` bytes.
inline std::span<const uint8_t> take(Cursor &cursor, size_t count) {
    return cursor.take(std::min(count, cursor.remaining()));
}

} // namespace dwunw::fuzz
