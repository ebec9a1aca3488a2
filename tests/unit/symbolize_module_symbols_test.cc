// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The fixtures are symbolize_fixture.cc built as a library (CMakeLists.txt): plain, stripped, and stripped with its
// local symbols compressed into .gnu_debugdata.
#include "symbolize/module_symbols.h"

#include "support/peak_memory.h"
#include "support/xz.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

namespace dwunw {
namespace {

const std::string kPlain = SYMBOLIZE_FIXTURES "/libsymbolize_fixture.so";
const std::string kStripped = SYMBOLIZE_FIXTURES "/libsymbolize_fixture.stripped.so";
const std::string kMiniDebug = SYMBOLIZE_FIXTURES "/libsymbolize_fixture.minidebug.so";

std::vector<uint8_t> read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file) << path;
    return {std::istreambuf_iterator<char>(file), {}};
}

Result<std::unique_ptr<ModuleSymbols>> open_image(const ByteSource &image) {
    Budget budget(SymbolImage::kMaxTableBytes);
    return ModuleSymbols::open(image, budget);
}

Result<std::unique_ptr<ModuleSymbols>> open_path(const std::string &path) {
    return open_image(MemorySource(read_file(path)));
}

// Where a symbol lies, read straight from a table of an ELF file: what the answers are compared with.
LinkAddr address_of(const std::string &path, uint32_t table_type, const std::string &name) {
    const std::vector<uint8_t> bytes = read_file(path);
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    std::vector<Elf64_Shdr> sections(header.e_shnum);
    std::memcpy(sections.data(), bytes.data() + header.e_shoff, sections.size() * sizeof(Elf64_Shdr));
    for (const Elf64_Shdr &section : sections) {
        if (section.sh_type != table_type)
            continue;
        for (uint64_t offset = 0; offset < section.sh_size; offset += sizeof(Elf64_Sym)) {
            Elf64_Sym symbol;
            std::memcpy(&symbol, bytes.data() + section.sh_offset + offset, sizeof symbol);
            const char *strings = reinterpret_cast<const char *>(bytes.data()) + sections[section.sh_link].sh_offset;
            if (name == strings + symbol.st_name)
                return LinkAddr(symbol.st_value);
        }
    }
    ADD_FAILURE() << name << " is not in " << path;
    return {};
}

constexpr char kHidden[] = "_ZN7fixture15hidden_functionEi";
constexpr char kExported[] = "_ZN7fixture17exported_functionEi";

void expect_symbol(ModuleSymbols &symbols, LinkAddr start, const std::string &name, const std::string &raw_name) {
    for (const uint64_t offset : {0, 1}) {
        auto found = symbols.find(start + offset);
        ASSERT_TRUE(found) << name << "+" << offset;
        EXPECT_EQ(found->name, name);
        EXPECT_EQ(found->raw_name, raw_name);
        EXPECT_EQ(found->start, start);
    }
}

TEST(ModuleSymbols, TheSymtabIsRead) {
    auto symbols = open_path(kPlain);
    ASSERT_TRUE(symbols) << dwunw_status_string(symbols.error().status);
    expect_symbol(**symbols, address_of(kPlain, SHT_SYMTAB, kHidden), "fixture::hidden_function(int)", kHidden);
    expect_symbol(**symbols, address_of(kPlain, SHT_SYMTAB, kExported), "fixture::exported_function(int)", kExported);
    expect_symbol(**symbols, address_of(kPlain, SHT_SYMTAB, "fixture_plain"), "fixture_plain", "fixture_plain");
}

TEST(ModuleSymbols, LabelsEndWithTheirSection) {
    auto symbols = open_path(kPlain);
    ASSERT_TRUE(symbols);
    const LinkAddr start = address_of(kPlain, SHT_SYMTAB, "fixture_label");
    for (uint64_t offset = 0; offset <= 16; offset++) {
        auto found = (*symbols)->find(start + offset);
        ASSERT_TRUE(found) << offset;
        EXPECT_STREQ(found->name, "fixture_label");
    }
}

// Musl's memset, of size 0 in .dynsym, named the functions behind it that have no symbol there.
TEST(ModuleSymbols, ALabelInDynsymNamesItsFirstByte) {
    auto symbols = open_path(kStripped);
    ASSERT_TRUE(symbols);
    const LinkAddr start = address_of(kStripped, SHT_DYNSYM, "fixture_label");
    ASSERT_TRUE((*symbols)->find(start));
    EXPECT_STREQ((*symbols)->find(start)->name, "fixture_label");
    for (uint64_t offset = 1; offset <= 16; offset++)
        EXPECT_EQ((*symbols)->find(start + offset).error().status, DWUNW_ERR_NOT_FOUND) << offset;
    // With the functions that .gnu_debugdata adds, it is known where the label's code ends.
    auto with_functions = open_path(kMiniDebug);
    ASSERT_TRUE(with_functions);
    for (uint64_t offset = 0; offset <= 16; offset++)
        EXPECT_TRUE((*with_functions)->find(start + offset)) << offset;
}

TEST(ModuleSymbols, NothingBeforeTheFirstOrAfterTheLastSymbol) {
    auto symbols = open_path(kPlain);
    ASSERT_TRUE(symbols);
    EXPECT_EQ((*symbols)->find(LinkAddr(0)).error().status, DWUNW_ERR_NOT_FOUND);
    EXPECT_EQ((*symbols)->find(LinkAddr(~uint64_t{0})).error().status, DWUNW_ERR_NOT_FOUND);
}

TEST(ModuleSymbols, FallsBackToDynsymInAStrippedFile) {
    auto symbols = open_path(kStripped);
    ASSERT_TRUE(symbols);
    expect_symbol(**symbols, address_of(kStripped, SHT_DYNSYM, kExported), "fixture::exported_function(int)",
                  kExported);
    EXPECT_EQ((*symbols)->find(address_of(kPlain, SHT_SYMTAB, kHidden)).error().status, DWUNW_ERR_NOT_FOUND);
}

TEST(ModuleSymbols, ReadsGnuDebugdata) {
    auto symbols = open_path(kMiniDebug);
    ASSERT_TRUE(symbols);
    expect_symbol(**symbols, address_of(kPlain, SHT_SYMTAB, kHidden), "fixture::hidden_function(int)", kHidden);
    expect_symbol(**symbols, address_of(kMiniDebug, SHT_DYNSYM, kExported), "fixture::exported_function(int)",
                  kExported);
}

TEST(ModuleSymbols, ReadsAnImageWithoutSectionHeaders) {
    std::vector<uint8_t> bytes = read_file(kStripped);
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    header.e_shoff = 0;
    header.e_shnum = header.e_shstrndx = 0;
    std::memcpy(bytes.data(), &header, sizeof header);

    auto symbols = open_image(MemorySource(bytes));
    ASSERT_TRUE(symbols);
    expect_symbol(**symbols, address_of(kStripped, SHT_DYNSYM, kExported), "fixture::exported_function(int)",
                  kExported);
}

TEST(ModuleSymbols, LibcsSymbolsAreRead) {
    void *function = dlsym(RTLD_DEFAULT, "malloc");
    Dl_info info;
    link_map *map = nullptr;
    ASSERT_NE(dladdr1(function, &info, reinterpret_cast<void **>(&map), RTLD_DL_LINKMAP), 0);
    if (std::string(map->l_name).find("libc.so") == std::string::npos)
        function =
            dlvsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "malloc", "GLIBC_2.2.5"); // a sanitizer's malloc
    ASSERT_NE(dladdr1(function, &info, reinterpret_cast<void **>(&map), RTLD_DL_LINKMAP), 0);

    auto symbols = open_path(map->l_name);
    ASSERT_TRUE(symbols);
    const LinkAddr address(reinterpret_cast<uint64_t>(function) - map->l_addr);
    auto found = (*symbols)->find(address + 1);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->start, address);
    // One of the function's aliases; which, depends on whether libc's debug symbols are installed.
    EXPECT_NE(std::string(found->name).find("malloc"), std::string::npos) << found->name;
}

// Not inlined, and with a name that tells nothing but itself.
__attribute__((noinline)) void *own_address() { return __builtin_return_address(0); }

TEST(ModuleSymbols, ReadsTheTestItself) {
    void *here = own_address();
    Dl_info info;
    link_map *map = nullptr;
    ASSERT_NE(dladdr1(here, &info, reinterpret_cast<void **>(&map), RTLD_DL_LINKMAP), 0);
    auto symbols = open_path("/proc/self/exe");
    ASSERT_TRUE(symbols);
    auto found = (*symbols)->find(LinkAddr(reinterpret_cast<uint64_t>(here) - map->l_addr));
    ASSERT_TRUE(found);
    EXPECT_NE(std::string(found->name).find("ReadsTheTestItself_Test::TestBody"), std::string::npos) << found->name;
}

TEST(ModuleSymbols, ReadsTheVdsoFromMemory) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address is what the kernel gives
    const auto *image = reinterpret_cast<const uint8_t *>(getauxval(AT_SYSINFO_EHDR));
    if (!image)
        GTEST_SKIP() << "skipped: the kernel maps no vDSO here";
    Elf64_Ehdr header;
    std::memcpy(&header, image, sizeof header);
    const size_t size = header.e_shoff + header.e_shnum * sizeof(Elf64_Shdr);

    auto symbols = open_image(MemorySource({image, size}));
    ASSERT_TRUE(symbols);
    void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
    ASSERT_NE(vdso, nullptr);
    void *function = dlsym(vdso, "__vdso_clock_gettime");
    ASSERT_NE(function, nullptr);
    auto found = (*symbols)->find(LinkAddr(reinterpret_cast<uint64_t>(function) - reinterpret_cast<uint64_t>(image)));
    ASSERT_TRUE(found);
    EXPECT_NE(std::string(found->name).find("clock_gettime"), std::string::npos) << found->name;
}

TEST(ModuleSymbols, AFileWithoutSymbolsIsNotAnError) {
    std::vector<uint8_t> bytes(sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr));
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = header.e_version = EV_CURRENT;
    header.e_type = ET_DYN;
    header.e_machine = EM_X86_64;
    header.e_phoff = header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 1;
    header.e_shentsize = sizeof(Elf64_Shdr);
    Elf64_Phdr segment{};
    segment.p_type = PT_LOAD;
    segment.p_filesz = segment.p_memsz = bytes.size();
    segment.p_align = 0x1000;
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(bytes.data() + sizeof header, &segment, sizeof segment);

    auto symbols = open_image(MemorySource(bytes));
    ASSERT_TRUE(symbols) << dwunw_status_string(symbols.error().status);
    EXPECT_EQ((*symbols)->symbol_count(), 0u);
    EXPECT_EQ((*symbols)->find(LinkAddr(0x40)).error().status, DWUNW_ERR_NOT_FOUND);
}

TEST(ModuleSymbols, AFileThatIsNotElfIsAnError) {
    const std::vector<uint8_t> text = {'#', '!', '/', 'b', 'i', 'n', '/', 's', 'h', '\n'};
    EXPECT_EQ(open_image(MemorySource(text)).error().status, DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(open_image(MemorySource({})).error().status, DWUNW_ERR_NOT_ELF);
}

// What was read is kept: the file may be another one, or gone.
TEST(ModuleSymbols, TheImageIsNotNeededAfterwards) {
    Result<std::unique_ptr<ModuleSymbols>> symbols = Error{DWUNW_ERR_NOT_FOUND};
    {
        std::vector<uint8_t> bytes = read_file(kPlain);
        symbols = open_image(MemorySource(bytes));
        std::ranges::fill(bytes, 0xff);
    }
    ASSERT_TRUE(symbols);
    const LinkAddr start = address_of(kPlain, SHT_SYMTAB, kHidden);
    expect_symbol(**symbols, start, "fixture::hidden_function(int)", kHidden);
}

// The fixture with its .gnu_debugdata replaced.
std::vector<uint8_t> with_debugdata(const std::vector<uint8_t> &packed) {
    std::vector<uint8_t> bytes = read_file(kMiniDebug);
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    const auto section = [&](size_t index) {
        Elf64_Shdr result;
        std::memcpy(&result, bytes.data() + header.e_shoff + index * sizeof result, sizeof result);
        return result;
    };
    const uint64_t names = section(header.e_shstrndx).sh_offset;
    for (size_t i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr changed = section(i);
        if (std::strcmp(reinterpret_cast<const char *>(bytes.data()) + names + changed.sh_name, ".gnu_debugdata") != 0)
            continue;
        changed.sh_offset = bytes.size();
        changed.sh_size = packed.size();
        std::memcpy(bytes.data() + header.e_shoff + i * sizeof changed, &changed, sizeof changed);
        bytes.insert(bytes.end(), packed.begin(), packed.end());
        return bytes;
    }
    ADD_FAILURE() << "no .gnu_debugdata in " << kMiniDebug;
    return bytes;
}

// 64 KB that become 400 MB: refused before any of it is unpacked. Before, elfutils unpacked it.
TEST(ModuleSymbols, DebugdataThatExpandsIsALimit) {
    const std::vector<uint8_t> file = with_debugdata(testing::xz_of(std::vector<uint8_t>(size_t{400} << 20)));
    const uint64_t grown = testing::peak_growth([&] {
        const auto symbols = open_image(MemorySource(file));
        return !symbols && symbols.error().status == DWUNW_ERR_LIMIT;
    });
    EXPECT_LT(grown, uint64_t{32} << 20);
}

// What does not unpack is left out, and .dynsym stays.
TEST(ModuleSymbols, DebugdataThatIsMalformed) {
    for (const std::vector<uint8_t> &packed :
         {std::vector<uint8_t>(1000, 0x5a), testing::xz_of({'n', 'o', ' ', 'E', 'L', 'F'})}) {
        const std::vector<uint8_t> file = with_debugdata(packed);
        auto symbols = open_image(MemorySource(file));
        ASSERT_TRUE(symbols);
        expect_symbol(**symbols, address_of(kMiniDebug, SHT_DYNSYM, kExported), "fixture::exported_function(int)",
                      kExported);
    }
}

TEST(ModuleSymbols, ManyImagesShareABudget) {
    const std::vector<uint8_t> bytes = read_file(kPlain);
    Budget all(uint64_t{1} << 30);
    auto first = ModuleSymbols::open(MemorySource(bytes), all);
    ASSERT_TRUE(first);
    const uint64_t each = (uint64_t{1} << 30) - all.left();
    EXPECT_GT(each, 0u);
    Budget two(2 * each);
    auto second = ModuleSymbols::open(MemorySource(bytes), two);
    auto third = ModuleSymbols::open(MemorySource(bytes), two);
    ASSERT_TRUE(second && third);
    EXPECT_EQ(ModuleSymbols::open(MemorySource(bytes), two).error().status, DWUNW_ERR_LIMIT);
    second->reset();
    EXPECT_TRUE(ModuleSymbols::open(MemorySource(bytes), two));
}

TEST(ModuleSymbols, EveryTruncationIsAnErrorOrASmallerFile) {
    const std::vector<uint8_t> bytes = read_file(kPlain);
    for (size_t size = 0; size < bytes.size(); size += 61) {
        const std::span<const uint8_t> head(bytes.data(), size);
        auto symbols = open_image(MemorySource(head));
        // The section headers are at the end: without them only .dynsym can be found.
        if (symbols) {
            auto found = (*symbols)->find(address_of(kPlain, SHT_SYMTAB, kHidden));
            EXPECT_EQ(found.ok() ? DWUNW_OK : found.error().status, DWUNW_ERR_NOT_FOUND) << "at " << size;
        }
    }
}

// For any file the answer is a symbol whose name is a string, or a typed error.
TEST(ModuleSymbols, SurvivesDamagedFiles) {
    std::mt19937 random(20240607);
    for (const std::string &path : {kPlain, kStripped, kMiniDebug}) {
        const std::vector<uint8_t> good = read_file(path);
        const uint64_t headers = reinterpret_cast<const Elf64_Ehdr *>(good.data())->e_shoff;
        for (int round = 0; round < 1000; round++) {
            std::vector<uint8_t> bytes = good;
            for (int change = 0; change < 8; change++) {
                // Half of the damage goes where it hurts: ELF header, program headers, section headers.
                const size_t place = change % 2     ? random() % bytes.size()
                                     : random() % 2 ? random() % 0x300
                                                    : headers + random() % (bytes.size() - headers);
                bytes[place] = static_cast<uint8_t>(random() % 3 ? random() : (random() % 2 ? 0xff : 0));
            }
            auto symbols = open_image(MemorySource(bytes));
            if (!symbols)
                continue;
            for (uint64_t address = 0; address < 0x5000; address += 7) {
                const auto found = (*symbols)->find(LinkAddr(address));
                ASSERT_LT(found ? std::strlen(found->raw_name) : 0, size_t{64} * 1024);
            }
        }
    }
}

} // namespace
} // namespace dwunw
