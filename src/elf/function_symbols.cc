// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "elf/function_symbols.h"

#include "base/cursor.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace dwunw::elf {

Result<FunctionSymbols> FunctionSymbols::read(const Image &image, const ByteSource &source) {
    FunctionSymbols symbols;
    if (auto status = symbols.read_table(image, source, ".dynsym", ".dynstr", ".gnu.version"); !status)
        return status.error();
    if (auto status = symbols.read_table(image, source, ".symtab", ".strtab", nullptr); !status)
        return status.error();
    std::sort(symbols.code_addresses_.begin(), symbols.code_addresses_.end());
    std::stable_sort(symbols.functions_.begin(), symbols.functions_.end(),
                     [](const Symbol &a, const Symbol &b) { return a.name < b.name; });
    return symbols;
}

Status FunctionSymbols::read_table(const Image &image, const ByteSource &source, const char *table, const char *strings,
                                   const char *versions) {
    auto entries = image.read_section(source, table);
    if (!entries)
        return entries.error();
    auto names = image.read_section(source, strings);
    if (!names)
        return names.error();
    if (!*entries || !*names)
        return {};
    std::vector<uint8_t> version_bytes;
    if (versions != nullptr) {
        auto section = image.read_section(source, versions);
        if (!section)
            return section.error();
        if (*section)
            version_bytes = std::move((*section)->bytes);
    }
    strings_.push_back(std::move(**names));
    const std::vector<uint8_t> &text = strings_.back().bytes;
    const size_t count = (*entries)->bytes.size() / sizeof(Elf64_Sym);
    for (size_t i = 0; i < count; ++i) {
        Elf64_Sym symbol;
        std::memcpy(&symbol, (*entries)->bytes.data() + i * sizeof(symbol), sizeof(symbol));
        const LinkAddr start(symbol.st_value);
        const unsigned type = ELF64_ST_TYPE(symbol.st_info);
        if (symbol.st_shndx == SHN_UNDEF || symbol.st_name >= text.size() || !image.is_executable(start) ||
            (type != STT_FUNC && type != STT_NOTYPE && type != STT_GNU_IFUNC))
            continue;
        code_addresses_.push_back(start);
        Cursor cursor(text, symbol.st_name);
        std::string_view name = cursor.c_string();
        name = name.substr(0, name.find('@'));
        if (type == STT_GNU_IFUNC && !name.empty())
            resolvers_.push_back({name, start, symbol.st_size, 0});
        if (type != STT_FUNC || name.empty())
            continue;
        const unsigned binding = ELF64_ST_BIND(symbol.st_info);
        int rank = binding == STB_LOCAL ? 0 : binding == STB_WEAK ? 1 : 2;
        uint16_t version = 0;
        if ((i + 1) * sizeof(version) <= version_bytes.size()) {
            std::memcpy(&version, version_bytes.data() + i * sizeof(version), sizeof(version));
            constexpr uint16_t kHidden = 0x8000; // not the default version
            rank += (version & kHidden) != 0 ? -3 : 3;
        }
        functions_.push_back({name, start, symbol.st_size, rank});
    }
    return {};
}

Result<FunctionSymbols::Function> FunctionSymbols::find(std::string_view name) const {
    const auto by_name = [](const Symbol &a, std::string_view b) { return a.name < b; };
    const Symbol *best = nullptr;
    bool ambiguous = false;
    for (auto it = std::lower_bound(functions_.begin(), functions_.end(), name, by_name);
         it != functions_.end() && it->name == name; ++it) {
        if (best == nullptr || it->rank > best->rank) {
            best = &*it;
            ambiguous = false;
        } else if (it->rank == best->rank && it->start != best->start) {
            ambiguous = true;
        }
    }
    if (best == nullptr || ambiguous)
        return Error{DWUNW_ERR_NOT_FOUND};
    return Function{best->start, best->size};
}

FunctionSymbols::Function FunctionSymbols::find(LinkAddr start) const {
    Function found{start};
    for (const Symbol &symbol : functions_)
        if (symbol.start == start)
            found.size = std::max(found.size, symbol.size);
    return found;
}

std::string_view FunctionSymbols::resolved_name(LinkAddr resolver) const {
    const auto found = std::find_if(resolvers_.begin(), resolvers_.end(),
                                    [&](const Symbol &symbol) { return symbol.start == resolver; });
    return found != resolvers_.end() ? found->name : std::string_view();
}

} // namespace dwunw::elf
