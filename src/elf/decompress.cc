// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "elf/decompress.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

namespace dwunw::elf {
namespace {

// Deflate cannot expand more than 1032:1. A zstd block holds at most 128 KiB and takes at least four bytes: its header
// and one byte to repeat (RFC 8878 §3.1.1.2).
constexpr uint64_t kMaxDeflateRatio = 1032;
constexpr uint64_t kMaxZstdRatio = (uint64_t{128} << 10) / 4;

Result<std::vector<uint8_t>> inflate_exactly(std::span<const uint8_t> input, uint64_t size) {
    const Error malformed{DWUNW_ERR_ELF_MALFORMED, size};
    if (size / kMaxDeflateRatio > input.size())
        return malformed;
    z_stream stream{};
    if (inflateInit(&stream) != Z_OK)
        return Error{DWUNW_ERR_OUT_OF_MEMORY};
    const std::unique_ptr<z_stream, int (*)(z_stream *)> end(&stream, inflateEnd);

    std::vector<uint8_t> output(size);
    // z_stream counts in uInt: feed and drain in pieces.
    constexpr uint64_t kPiece = uint64_t{1} << 30;
    uint64_t in_offset = 0;
    uint64_t out_offset = 0;
    int code = Z_OK;
    while (code == Z_OK) {
        const uint64_t in_now = std::min(kPiece, input.size() - in_offset);
        const uint64_t out_now = std::min(kPiece, size - out_offset);
        stream.next_in = const_cast<Bytef *>(input.data() + in_offset); // zlib never writes through next_in
        stream.avail_in = static_cast<uInt>(in_now);
        stream.next_out = output.data() + out_offset;
        stream.avail_out = static_cast<uInt>(out_now);
        code = inflate(&stream, Z_NO_FLUSH);
        const uint64_t in_used = in_now - stream.avail_in;
        const uint64_t out_made = out_now - stream.avail_out;
        in_offset += in_used;
        out_offset += out_made;
        if (code == Z_OK && in_used == 0 && out_made == 0)
            return malformed;
    }
    if (code != Z_STREAM_END || out_offset != size)
        return malformed;
    return output;
}

Result<std::vector<uint8_t>> unzstd_exactly(std::span<const uint8_t> input, uint64_t size) {
    const Error malformed{DWUNW_ERR_ELF_MALFORMED, size};
    if (size / kMaxZstdRatio > input.size())
        return malformed;
    const unsigned long long stated = ZSTD_getFrameContentSize(input.data(), input.size());
    if (stated == ZSTD_CONTENTSIZE_ERROR || (stated != ZSTD_CONTENTSIZE_UNKNOWN && stated > size))
        return malformed;
    std::vector<uint8_t> output(size);
    const size_t made = ZSTD_decompress(output.data(), output.size(), input.data(), input.size());
    if (ZSTD_isError(made) || made != size)
        return malformed;
    return output;
}

} // namespace

Result<std::vector<uint8_t>> decompress(Compression method, std::span<const uint8_t> input, uint64_t size) {
    if (size == 0)
        return std::vector<uint8_t>{};
    return method == Compression::kZlib ? inflate_exactly(input, size) : unzstd_exactly(input, size);
}

} // namespace dwunw::elf
