// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Section decompression (gABI "Section Compression": ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD; and GNU's older .zdebug_
// form).
#pragma once

#include "base/result.h"

#include <cstdint>
#include <span>
#include <vector>

namespace dwunw::elf {

enum class Compression { kZlib, kZstd };

// Decompresses to exactly `size` bytes; otherwise DWUNW_ERR_ELF_MALFORMED. The caller must have bounded `size`. The
// function also checks `size` against the most that the input can expand to, before it allocates memory.
Result<std::vector<uint8_t>> decompress(Compression method, std::span<const uint8_t> input, uint64_t size);

} // namespace dwunw::elf
