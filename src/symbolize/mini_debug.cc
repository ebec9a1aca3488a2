// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "symbolize/mini_debug.h"

#include "base/byte_source.h"
#include "elf/image.h"

#include <lzma.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace dwunw {
namespace {

constexpr Error kMalformed{DWUNW_ERR_ELF_MALFORMED};

// The size in the index at the end. The stream must be the only one (The .xz File Format, sections 2 and 4).
Result<uint64_t> unpacked_size(std::span<const uint8_t> packed) {
    // An index entry describes a block and takes 16 bytes in memory. One entry is usual.
    constexpr uint64_t kMaxIndexBytes = uint64_t{1} << 20;
    if (packed.size() < size_t{2} * LZMA_STREAM_HEADER_SIZE)
        return kMalformed;
    lzma_stream_flags flags{};
    const auto footer = packed.last(LZMA_STREAM_HEADER_SIZE);
    if (lzma_stream_footer_decode(&flags, footer.data()) != LZMA_OK ||
        flags.backward_size > packed.size() - size_t{2} * LZMA_STREAM_HEADER_SIZE)
        return kMalformed;
    const auto bytes =
        packed.subspan(packed.size() - LZMA_STREAM_HEADER_SIZE - flags.backward_size).first(flags.backward_size);
    lzma_index *raw = nullptr;
    uint64_t limit = kMaxIndexBytes;
    size_t at = 0;
    const lzma_ret decoded = lzma_index_buffer_decode(&raw, &limit, nullptr, bytes.data(), &at, bytes.size());
    if (decoded == LZMA_MEMLIMIT_ERROR)
        return Error{DWUNW_ERR_LIMIT, limit};
    if (decoded != LZMA_OK)
        return kMalformed;
    const std::unique_ptr<lzma_index, void (*)(lzma_index *)> index(
        raw, [](lzma_index *ended) { lzma_index_end(ended, nullptr); });
    if (lzma_index_file_size(index.get()) != packed.size())
        return kMalformed;
    return lzma_index_uncompressed_size(index.get());
}

Result<std::vector<uint8_t>> unpack_xz(std::span<const uint8_t> packed) {
    const auto size = unpacked_size(packed);
    if (!size)
        return size.error();
    if (*size > elf::expanded_limit(packed.size()))
        return Error{DWUNW_ERR_LIMIT, *size};
    std::vector<uint8_t> unpacked(*size);
    uint64_t limit = MiniDebug::kMaxDecoderBytes;
    size_t read = 0;
    size_t written = 0;
    const lzma_ret decoded = lzma_stream_buffer_decode(&limit, 0, nullptr, packed.data(), &read, packed.size(),
                                                       unpacked.data(), &written, unpacked.size());
    if (decoded == LZMA_MEMLIMIT_ERROR)
        return Error{DWUNW_ERR_LIMIT, limit};
    if (decoded != LZMA_OK || written != unpacked.size())
        return kMalformed;
    return unpacked;
}

} // namespace

Result<MiniDebug> MiniDebug::unpack(std::span<const uint8_t> packed) {
    auto file = unpack_xz(packed);
    if (!file)
        return file.error();
    MiniDebug result;
    result.file_ = std::move(*file);
    if (auto status = result.read_symbols(); !status)
        return status.error();
    return result;
}

Status MiniDebug::read_symbols() {
    const auto image = elf::Image::parse(MemorySource(file_));
    if (!image)
        return kMalformed;
    const auto &sections = image->sections();
    const auto table = std::ranges::find(sections, uint32_t{SHT_SYMTAB}, &elf::Section::type);
    if (table == sections.end())
        return {};
    const auto bytes_of = [&](const elf::Section &section) -> std::span<const uint8_t> {
        const uint64_t offset = section.offset.value;
        if ((section.flags & SHF_COMPRESSED) != 0 || offset > file_.size() || section.size > file_.size() - offset)
            return {};
        return std::span(file_).subspan(offset, section.size);
    };
    const auto symbols = bytes_of(*table);
    const auto strings = table->link < sections.size() ? bytes_of(sections[table->link]) : std::span<const uint8_t>();
    const auto last_nul = std::find(strings.rbegin(), strings.rend(), 0);
    const auto ending = static_cast<size_t>(strings.rend() - last_nul); // the last name must end within the strings
    symbols_.reserve(symbols.size() / sizeof(Elf64_Sym));
    for (size_t at = 0; symbols.size() - at >= sizeof(Elf64_Sym); at += sizeof(Elf64_Sym)) {
        Symbol symbol{};
        std::memcpy(&symbol.symbol, symbols.data() + at, sizeof(Elf64_Sym));
        if (symbol.symbol.st_name >= ending)
            continue;
        symbol.name = reinterpret_cast<const char *>(strings.data()) + symbol.symbol.st_name;
        symbols_.push_back(symbol);
    }
    return {};
}

} // namespace dwunw
