// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Functions by name and by address: which of several symbols with one name counts, and which symbols are not functions.
#include "elf/function_symbols.h"

#include "support/elf_builder.h"

#include <gtest/gtest.h>

#include <optional>
#include <string_view>

namespace dwunw::elf {
namespace {

using testing::ElfBuilder;

constexpr uint64_t kText = 0x10000;
constexpr uint64_t kFunction = 0x10100;
constexpr uint64_t kOther = 0x10200;

// A file with 1 KiB of code and the symbols that a test adds.
struct File {
    void symbol(std::string_view name, uint64_t value, uint64_t size, int type = STT_FUNC, int binding = STB_GLOBAL,
                uint16_t section = 1) {
        Elf64_Sym entry{};
        entry.st_name = static_cast<uint32_t>(names.size());
        entry.st_info = static_cast<unsigned char>(ELF64_ST_INFO(binding, type));
        entry.st_shndx = section;
        entry.st_value = value;
        entry.st_size = size;
        names.insert(names.end(), name.begin(), name.end());
        names.push_back(0);
        const auto *bytes = reinterpret_cast<const uint8_t *>(&entry);
        symbols.insert(symbols.end(), bytes, bytes + sizeof(entry));
    }
    std::vector<uint8_t> build() const {
        ElfBuilder builder;
        builder.add({".text", std::vector<uint8_t>(0x400, 0x90), kText, SHF_ALLOC | SHF_EXECINSTR})
            .add({dynamic ? ".dynsym" : ".symtab", symbols, 0, 0})
            .add({dynamic ? ".dynstr" : ".strtab", names, 0, 0});
        if (!versions.empty())
            builder.add({".gnu.version", versions, 0, 0});
        builder.add_segment(PT_LOAD, PF_R | PF_X, ".text");
        return builder.build();
    }
    FunctionSymbols read() const {
        const std::vector<uint8_t> bytes = build();
        const MemorySource source(bytes);
        const auto image = Image::parse(source);
        EXPECT_TRUE(image.ok());
        auto read = FunctionSymbols::read(*image, source);
        EXPECT_TRUE(read.ok());
        return std::move(*read);
    }

    std::vector<uint8_t> symbols, names, versions;
    bool dynamic = false;
};

// nullopt: not found.
std::optional<uint64_t> start(const FunctionSymbols &symbols, std::string_view name) {
    const auto function = symbols.find(name);
    if (function)
        return function->start.value;
    EXPECT_EQ(function.error().status, DWUNW_ERR_NOT_FOUND);
    return std::nullopt;
}

TEST(FunctionSymbols, FindsFunctionsByName) {
    File file;
    file.symbol("one", kFunction, 6);
    file.symbol("one_more", kOther, 7);
    file.symbol("versioned@@V_1", kOther, 8);
    file.symbol("two", kOther, 1, STT_FUNC, STB_LOCAL);
    file.symbol("two", kFunction, 2, STT_FUNC, STB_WEAK);
    const FunctionSymbols symbols = file.read();
    EXPECT_EQ(start(symbols, "one"), kFunction);
    EXPECT_EQ(symbols.find("one")->size, 6U);
    EXPECT_EQ(start(symbols, "versioned"), kOther);
    EXPECT_EQ(start(symbols, "two"), kFunction); // weak before local
}

TEST(FunctionSymbols, NamesThatMeanNoFunctionAreNotFound) {
    File file;
    file.symbol("data", kFunction, 8, STT_OBJECT);
    file.symbol("outside", 0x999999, 8);
    file.symbol("elsewhere", kFunction, 8, STT_FUNC, STB_GLOBAL, SHN_UNDEF);
    file.symbol("either", kOther, 1, STT_FUNC, STB_LOCAL);
    file.symbol("either", kFunction, 1, STT_FUNC, STB_LOCAL);
    file.symbol("one", kFunction, 6);
    const FunctionSymbols symbols = file.read();
    for (const char *name : {"data", "outside", "elsewhere", "either", "on", "", "zzz"})
        EXPECT_EQ(start(symbols, name), std::nullopt) << name;
}

TEST(FunctionSymbols, AnAddressHasTheLargestSizeOfItsSymbols) {
    File file;
    file.symbol("one", kOther, 7);
    file.symbol("alias", kOther, 8);
    const FunctionSymbols symbols = file.read();
    EXPECT_EQ(symbols.find(LinkAddr(kOther)).size, 8U);
    EXPECT_EQ(symbols.find(LinkAddr(kOther + 1)).size, 0U);
}

TEST(FunctionSymbols, TheDefaultVersionIsMeant) {
    File file;
    file.dynamic = true;
    file.symbol("f", kOther, 1);
    file.symbol("f", kFunction, 1, STT_FUNC, STB_WEAK);
    file.versions = {2, 0x80, 3, 0}; // the first is hidden
    EXPECT_EQ(start(file.read(), "f"), kFunction);
    file.versions = {2, 0, 3, 0x80};
    EXPECT_EQ(start(file.read(), "f"), kOther);
}

TEST(FunctionSymbols, CodeAddressesAreThoseOfAllSymbolsInCode) {
    File file;
    file.symbol("late", kOther, 1);
    file.symbol("label", kFunction + 1, 0, STT_NOTYPE, STB_LOCAL);
    file.symbol("early", kFunction, 1);
    file.symbol("data", kFunction + 2, 8, STT_OBJECT);
    const FunctionSymbols symbols = file.read();
    const auto addresses = symbols.code_addresses();
    const std::vector<LinkAddr> expected{LinkAddr(kFunction), LinkAddr(kFunction + 1), LinkAddr(kOther)};
    EXPECT_TRUE(std::ranges::equal(addresses, expected));
}

TEST(FunctionSymbols, AResolverHasItsFunctionsNameAndIsNotAFunction) {
    File file;
    file.symbol("memset", kFunction, 4, STT_GNU_IFUNC);
    const FunctionSymbols symbols = file.read();
    EXPECT_EQ(symbols.resolved_name(LinkAddr(kFunction)), "memset");
    EXPECT_EQ(symbols.resolved_name(LinkAddr(kOther)), "");
    EXPECT_EQ(start(symbols, "memset"), std::nullopt);
}

TEST(FunctionSymbols, AFileWithoutSymbolsGivesAnEmptySet) {
    const FunctionSymbols symbols = File().read();
    EXPECT_TRUE(symbols.code_addresses().empty());
    EXPECT_EQ(start(symbols, "f"), std::nullopt);
}

// The table's last entry is cut, and a name begins beyond the string table.
TEST(FunctionSymbols, CutTablesAndWildNamesAreLeftOut) {
    File file;
    file.symbol("whole", kFunction, 1);
    file.symbol("wild", kOther, 1);
    const uint32_t beyond = 1000;
    std::memcpy(file.symbols.data() + sizeof(Elf64_Sym), &beyond, sizeof(beyond));
    file.symbol("cut", kOther, 1);
    file.symbols.pop_back();
    const FunctionSymbols symbols = file.read();
    EXPECT_EQ(start(symbols, "whole"), kFunction);
    EXPECT_EQ(start(symbols, "wild"), std::nullopt);
    EXPECT_EQ(start(symbols, "cut"), std::nullopt);
}

} // namespace
} // namespace dwunw::elf
