// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/elf_dynamic_test.
#include "elf/dynamic.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace dwunw::elf {
namespace {

std::optional<std::string> read_name(const ByteSource &source, FileOffset at) {
    std::array<uint8_t, kMaxLibraryName + 1> bytes{};
    const auto got = static_cast<std::ptrdiff_t>(source.read(at, bytes));
    const auto end = std::find(bytes.begin(), bytes.begin() + got, 0);
    if (end == bytes.begin() + got || end == bytes.begin())
        return std::nullopt;
    return std::string(reinterpret_cast<const char *>(bytes.data()), static_cast<size_t>(end - bytes.begin()));
}

} // namespace

Dynamic read_dynamic(const Image &image, const ByteSource &source) {
    Dynamic result;
    const auto section = std::ranges::find_if(image.sections(), [](const Section &s) { return s.type == SHT_DYNAMIC; });
    if (section == image.sections().end()) {
        result.whole = false;
        return result;
    }
    const size_t count = std::min<uint64_t>(section->size / sizeof(Elf64_Dyn), kMaxDynamicEntries);
    std::vector<Elf64_Dyn> entries(count);
    if (!source.read_exactly(section->offset,
                             {reinterpret_cast<uint8_t *>(entries.data()), count * sizeof(Elf64_Dyn)})) {
        result.whole = false;
        return result;
    }
    entries.erase(std::ranges::find(entries, DT_NULL, &Elf64_Dyn::d_tag), entries.end());
    const auto strings = std::ranges::find(entries, DT_STRTAB, &Elf64_Dyn::d_tag);
    const auto strings_at = strings != entries.end() ? image.file_offset(LinkAddr(strings->d_un.d_ptr)) : std::nullopt;
    for (const Elf64_Dyn &entry : entries) {
        if (entry.d_tag != DT_NEEDED && entry.d_tag != DT_SONAME)
            continue;
        // An offset beyond the file reads nothing.
        auto name = strings_at && entry.d_un.d_val < source.size() ? read_name(source, *strings_at + entry.d_un.d_val)
                                                                   : std::nullopt;
        if (!name)
            result.whole = false;
        else if (entry.d_tag == DT_SONAME)
            result.name = std::move(*name);
        else
            result.needed.push_back(std::move(*name));
    }
    return result;
}

} // namespace dwunw::elf
