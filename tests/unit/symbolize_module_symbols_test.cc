// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The fixtures are symbolize_fixture.cc built as a library (CMakeLists.txt): plain, stripped, and stripped with its
// local symbols compressed into .gnu_debugdata.
#include "symbolize/module_symbols.h"

#include "base/unique_fd.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>

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

// An unnamed file that holds `bytes`.
UniqueFd file_of(std::span<const uint8_t> bytes) {
    UniqueFd fd(memfd_create("image", MFD_CLOEXEC));
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    return fd;
}

Result<std::unique_ptr<ModuleSymbols>> open_path(const std::string &path, UniqueFd &fd) {
    const std::vector<uint8_t> bytes = read_file(path);
    fd = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    return ModuleSymbols::open(fd.get(), MemorySource(bytes));
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

TEST(ModuleSymbols, ReadsSymtab) {
    UniqueFd fd;
    auto symbols = open_path(kPlain, fd);
    ASSERT_TRUE(symbols) << dwunw_status_string(symbols.error().status);
    expect_symbol(**symbols, address_of(kPlain, SHT_SYMTAB, kHidden), "fixture::hidden_function(int)", kHidden);
    expect_symbol(**symbols, address_of(kPlain, SHT_SYMTAB, kExported), "fixture::exported_function(int)", kExported);
    expect_symbol(**symbols, address_of(kPlain, SHT_SYMTAB, "fixture_plain"), "fixture_plain", "fixture_plain");
}

TEST(ModuleSymbols, LabelsEndWithTheirSection) {
    UniqueFd fd;
    auto symbols = open_path(kPlain, fd);
    ASSERT_TRUE(symbols);
    const LinkAddr start = address_of(kPlain, SHT_SYMTAB, "fixture_label");
    for (uint64_t offset = 0; offset <= 16; offset++) {
        auto found = (*symbols)->find(start + offset);
        ASSERT_TRUE(found) << offset;
        EXPECT_STREQ(found->name, "fixture_label");
    }
}

TEST(ModuleSymbols, NothingBeforeTheFirstOrAfterTheLastSymbol) {
    UniqueFd fd;
    auto symbols = open_path(kPlain, fd);
    ASSERT_TRUE(symbols);
    EXPECT_EQ((*symbols)->find(LinkAddr(0)).error().status, DWUNW_ERR_NOT_FOUND);
    EXPECT_EQ((*symbols)->find(LinkAddr(~uint64_t{0})).error().status, DWUNW_ERR_NOT_FOUND);
}

TEST(ModuleSymbols, FallsBackToDynsymInAStrippedFile) {
    UniqueFd fd;
    auto symbols = open_path(kStripped, fd);
    ASSERT_TRUE(symbols);
    expect_symbol(**symbols, address_of(kStripped, SHT_DYNSYM, kExported), "fixture::exported_function(int)",
                  kExported);
    EXPECT_EQ((*symbols)->find(address_of(kPlain, SHT_SYMTAB, kHidden)).error().status, DWUNW_ERR_NOT_FOUND);
}

TEST(ModuleSymbols, ReadsGnuDebugdata) {
    UniqueFd fd;
    auto symbols = open_path(kMiniDebug, fd);
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

    const UniqueFd fd = file_of(bytes);
    for (const int image_fd : {fd.get(), -1}) {
        auto symbols = ModuleSymbols::open(image_fd, MemorySource(bytes));
        ASSERT_TRUE(symbols);
        expect_symbol(**symbols, address_of(kStripped, SHT_DYNSYM, kExported), "fixture::exported_function(int)",
                      kExported);
    }
}

TEST(ModuleSymbols, ReadsLibc) {
    void *function = dlsym(RTLD_DEFAULT, "malloc");
    Dl_info info;
    link_map *map = nullptr;
    ASSERT_NE(dladdr1(function, &info, reinterpret_cast<void **>(&map), RTLD_DL_LINKMAP), 0);
    if (std::string(map->l_name).find("libc.so") == std::string::npos)
        function =
            dlvsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "malloc", "GLIBC_2.2.5"); // a sanitizer's malloc
    ASSERT_NE(dladdr1(function, &info, reinterpret_cast<void **>(&map), RTLD_DL_LINKMAP), 0);

    UniqueFd fd;
    auto symbols = open_path(map->l_name, fd);
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
    UniqueFd fd;
    auto symbols = open_path("/proc/self/exe", fd);
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

    auto symbols = ModuleSymbols::open(-1, MemorySource({image, size}));
    ASSERT_TRUE(symbols);
    void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
    ASSERT_NE(vdso, nullptr);
    void *function = dlsym(vdso, "__vdso_clock_gettime");
    ASSERT_NE(function, nullptr);
    auto found = (*symbols)->find(LinkAddr(reinterpret_cast<uint64_t>(function) - reinterpret_cast<uint64_t>(image)));
    ASSERT_TRUE(found);
    EXPECT_NE(std::string(found->name).find("clock_gettime"), std::string::npos) << found->name;
}

TEST(ModuleSymbols, AFileWithoutAnySymbolsHasNone) {
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

    auto symbols = ModuleSymbols::open(-1, MemorySource(bytes));
    ASSERT_TRUE(symbols) << dwunw_status_string(symbols.error().status);
    EXPECT_EQ((*symbols)->symbol_count(), 0u);
    EXPECT_EQ((*symbols)->find(LinkAddr(0x40)).error().status, DWUNW_ERR_NOT_FOUND);
}

TEST(ModuleSymbols, WhatIsNotElfIsAnError) {
    const std::vector<uint8_t> text = {'#', '!', '/', 'b', 'i', 'n', '/', 's', 'h', '\n'};
    const UniqueFd fd = file_of(text);
    EXPECT_EQ(ModuleSymbols::open(fd.get(), MemorySource(text)).error().status, DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(ModuleSymbols::open(-1, MemorySource(text)).error().status, DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(ModuleSymbols::open(-1, MemorySource({})).error().status, DWUNW_ERR_NOT_ELF);
}

// Says that it is as large as it likes, and has nothing.
class EndlessSource final : public ByteSource {
  public:
    uint64_t size() const override { return uint64_t{1} << 50; }
    size_t read(FileOffset, std::span<uint8_t>) const override { return 0; }
};

TEST(ModuleSymbols, AnImageToCopyIsBounded) {
    EXPECT_EQ(ModuleSymbols::open(-1, EndlessSource()).error().status, DWUNW_ERR_LIMIT);
}

TEST(ModuleSymbols, SizesOfTablesAreBounded) {
    // A sparse file is as large as it says.
    std::vector<uint8_t> bytes = read_file(kPlain);
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    for (int i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr section;
        uint8_t *place = bytes.data() + header.e_shoff + i * sizeof section;
        std::memcpy(&section, place, sizeof section);
        if (section.sh_type == SHT_SYMTAB)
            section.sh_size = uint64_t{1} << 40;
        std::memcpy(place, &section, sizeof section);
    }
    const UniqueFd fd = file_of(bytes);
    ASSERT_EQ(ftruncate(fd.get(), off_t{1} << 41), 0);
    EXPECT_EQ(ModuleSymbols::open(fd.get(), MemorySource(bytes)).error().status, DWUNW_ERR_LIMIT);
}

// The reason why nothing here is mapped: the file may shrink at any time.
TEST(ModuleSymbols, AFileThatIsTruncatedLaterIsNoSignal) {
    const std::vector<uint8_t> bytes = read_file(kPlain);
    const UniqueFd fd = file_of(bytes);
    auto symbols = ModuleSymbols::open(fd.get(), MemorySource(bytes));
    ASSERT_TRUE(symbols);
    ASSERT_EQ(ftruncate(fd.get(), 0), 0);
    const LinkAddr start = address_of(kPlain, SHT_SYMTAB, kHidden);
    expect_symbol(**symbols, start, "fixture::hidden_function(int)", kHidden);
}

TEST(ModuleSymbols, EveryTruncationIsAnErrorOrASmallerFile) {
    const std::vector<uint8_t> bytes = read_file(kPlain);
    for (size_t size = 0; size < bytes.size(); size += 61) {
        const std::span<const uint8_t> head(bytes.data(), size);
        const UniqueFd fd = file_of(head);
        auto symbols = ModuleSymbols::open(fd.get(), MemorySource(head));
        // The section headers are at the end: without them only .dynsym can be found.
        if (symbols) {
            auto found = (*symbols)->find(address_of(kPlain, SHT_SYMTAB, kHidden));
            EXPECT_EQ(found.ok() ? DWUNW_OK : found.error().status, DWUNW_ERR_NOT_FOUND) << "at " << size;
        }
    }
}

// Whatever a file holds, the answer is a symbol whose name is a string, or a typed error.
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
            const UniqueFd fd = file_of(bytes);
            auto symbols = ModuleSymbols::open(round % 2 ? fd.get() : -1, MemorySource(bytes));
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
