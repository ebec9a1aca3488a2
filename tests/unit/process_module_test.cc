// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/module.h"

#include "process_testing.h"
#include "support/cfi_bytes.h"
#include "support/elf_builder.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <atomic>
#include <map>
#include <thread>

namespace dwunw::process {
namespace {

using testing::TemporaryFolder;

std::unique_ptr<Module> open_module_file(const std::string &path) {
    const LocatedFile file = testing::take(LocatedFile::locate(AT_FDCWD, path.c_str()));
    auto fd = std::make_shared<const UniqueFd>(testing::take(file.open()));
    auto source = std::make_shared<const FileSource>(fd, file.identity().size);
    return std::make_unique<Module>(source, fd->get(), file.identity());
}

TEST(Module, RulesOfARealLibrary) {
    const auto module = open_module_file(PLUGIN_A);
    ASSERT_TRUE(module->image());
    auto cfi = module->cfi();
    ASSERT_TRUE(cfi);
    EXPECT_GE((*(*cfi)->compile())->fde_count(), 2u);
    EXPECT_EQ(*module->cfi(), *cfi);
}

TEST(Module, ManyThreadsCompileOnce) {
    const auto module = open_module_file(PLUGIN_A);
    std::vector<std::shared_ptr<const unwind::ModuleCfi>> seen(8);
    std::vector<std::thread> threads;
    std::atomic<size_t> ready = 0;
    for (auto &each : seen)
        threads.emplace_back([&] {
            ++ready;
            while (ready < seen.size())
                std::this_thread::yield();
            each = *module->cfi();
        });
    for (std::thread &thread : threads)
        thread.join();
    for (const auto &each : seen)
        EXPECT_EQ(each, seen[0]);
    EXPECT_NE(seen[0], nullptr);
}

TEST(Module, DropsCfiThatIsNotHeld) {
    const auto module = open_module_file(PLUGIN_A);
    EXPECT_EQ(module->cfi_bytes(), 0u);
    EXPECT_EQ(module->drop_cfi(), 0u);
    auto cfi = testing::take(module->cfi());
    const size_t sections = module->cfi_bytes();
    EXPECT_GT(sections, 0u);
    ASSERT_TRUE(cfi->compile());
    EXPECT_GT(module->cfi_bytes(), sections);
    EXPECT_EQ(module->drop_cfi(), 0u); // held here
    const size_t whole = module->cfi_bytes();
    cfi.reset();
    EXPECT_EQ(module->drop_cfi(), whole);
    EXPECT_EQ(module->cfi_bytes(), 0u);
    EXPECT_TRUE(module->cfi());
    EXPECT_EQ(module->cfi_bytes(), sections);
}

TEST(Module, TruncatedAfterOpening) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    const auto module = open_module_file(path);
    ASSERT_EQ(::truncate(path.c_str(), 300), 0);
    ASSERT_FALSE(module->image());
    EXPECT_EQ(module->image().error().status, DWUNW_ERR_MODULE_CHANGED);
    EXPECT_FALSE(module->unchanged());
    auto cfi = module->cfi();
    ASSERT_FALSE(cfi);
    EXPECT_EQ(cfi.error().status, DWUNW_ERR_MODULE_CHANGED);
}

TEST(Module, TruncatedBeforeOpeningAtEverySize) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    const std::string whole = testing::read_file(PLUGIN_A);
    for (size_t size = 0; size < whole.size(); size += size < 2048 ? 61 : 1021) {
        testing::write_file(path, whole.substr(0, size));
        const auto module = open_module_file(path);
        if (size < 4) {
            EXPECT_EQ(module->image().error().status, DWUNW_ERR_NOT_ELF);
        } else if (size < sizeof(Elf64_Ehdr)) {
            EXPECT_EQ(module->image().error().status, DWUNW_ERR_ELF_MALFORMED);
        } else if (auto cfi = module->cfi(); !cfi) {
            EXPECT_TRUE(cfi.error().status == DWUNW_ERR_ELF_MALFORMED || cfi.error().status == DWUNW_ERR_NO_CFI)
                << dwunw_status_string(cfi.error().status);
        }
    }
}

TEST(Module, ChangedBetweenParsingAndCompiling) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    const auto module = open_module_file(path);
    ASSERT_TRUE(module->image());
    ASSERT_EQ(::truncate(path.c_str(), static_cast<off_t>(module->source().size() + 1)), 0);
    auto cfi = module->cfi();
    ASSERT_FALSE(cfi);
    EXPECT_EQ(cfi.error().status, DWUNW_ERR_MODULE_CHANGED);
}

// Rules are read when they are asked for, and a file may change in between.
TEST(Module, ChangedBetweenOpeningAndARule) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    const auto module = open_module_file(path);
    const auto cfi = testing::take(module->cfi());
    ASSERT_EQ(::truncate(path.c_str(), 300), 0);
    const LinkAddr address = module->image()->sections().front().address;
    EXPECT_EQ(cfi->rule_at(address).status, DWUNW_ERR_MODULE_CHANGED);
    auto table = cfi->compile();
    ASSERT_FALSE(table);
    EXPECT_EQ(table.error().status, DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(cfi->table(), nullptr);
}

TEST(Module, AnElfFileWithoutRules) {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_type = ET_DYN;
    const TemporaryFolder folder;
    testing::write_file(folder / "empty", std::string(reinterpret_cast<const char *>(&header), sizeof(header)));
    const auto module = open_module_file(folder / "empty");
    EXPECT_TRUE(module->image());
    auto cfi = module->cfi();
    ASSERT_FALSE(cfi);
    EXPECT_EQ(cfi.error().status, DWUNW_ERR_NO_CFI);
}

// The dynamic linker's word on where it put things, for every executable mapping of this process and a library whose
// text does not lie at its file offset.
TEST(LoadBias, IsTheDynamicLinkers) {
    void *moved = ::dlopen(PLUGIN_MOVED, RTLD_NOW);
    ASSERT_NE(moved, nullptr) << ::dlerror();
    std::map<std::string, uint64_t> expected;
    ::dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *argument) {
            auto &out = *static_cast<std::map<std::string, uint64_t> *>(argument);
            const std::string name = *info->dlpi_name != '\0' ? info->dlpi_name : "/proc/self/exe";
            if (std::error_code error; std::filesystem::exists(name, error))
                out[std::filesystem::canonical(name)] = info->dlpi_addr;
            return 0;
        },
        &expected);
    const UniqueFd fd(::open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    auto maps = Maps::read(fd.get());
    ASSERT_TRUE(maps);
    size_t compared = 0;
    bool saw_moved = false;
    for (const Mapping &mapping : maps->mappings()) {
        const auto found = expected.find(std::string(mapping.path));
        if (found == expected.end() || !mapping.executable)
            continue;
        const auto module = open_module_file(found->first);
        ASSERT_TRUE(module->image());
        const auto bias = load_bias(*module->image(), mapping);
        ASSERT_TRUE(bias.has_value()) << mapping.path << " " << std::hex << mapping.start.value;
        EXPECT_EQ(bias->value, found->second) << mapping.path << " " << std::hex << mapping.start.value;
        ++compared;
        saw_moved |= found->first == std::filesystem::canonical(PLUGIN_MOVED).string();
    }
    EXPECT_GE(compared, 6u); // the program, the plugin, libstdc++, libm, libgcc_s, libc; ld.so
    EXPECT_TRUE(saw_moved);
    ::dlclose(moved);
}

// A made-up file: text that ends in the middle of page 1, data that begins there, as `ld -z noseparate-code` writes.
elf::Image image_with(std::initializer_list<Elf64_Phdr> segments) {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_type = ET_DYN;
    header.e_phoff = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = static_cast<uint16_t>(segments.size());
    std::vector<uint8_t> bytes(sizeof(header) + segments.size() * sizeof(Elf64_Phdr));
    std::memcpy(bytes.data(), &header, sizeof(header));
    uint8_t *out = bytes.data() + sizeof(header);
    for (const Elf64_Phdr &segment : segments) {
        std::memcpy(out, &segment, sizeof(segment));
        out += sizeof(segment);
    }
    return testing::take(elf::Image::parse(MemorySource(bytes)));
}

Elf64_Phdr load(uint32_t flags, uint64_t offset, uint64_t address, uint64_t file_size) {
    return {PT_LOAD, flags, offset, address, address, file_size, file_size, 0x1000};
}

Mapping mapping_at(uint64_t start, uint64_t offset, bool executable) {
    Mapping mapping;
    mapping.start = RunAddr(start);
    mapping.end = RunAddr(start + 0x1000);
    mapping.offset = FileOffset(offset);
    mapping.executable = executable;
    return mapping;
}

TEST(LoadBias, OfAPageThatTwoSegmentsShare) {
    const elf::Image image =
        image_with({load(PF_R | PF_X, 0, 0x400000, 0x1234), load(PF_R | PF_W, 0x1234, 0x602234, 0x400)});
    EXPECT_EQ(load_bias(image, mapping_at(0x10000, 0x1000, true))->value, uint64_t{0x10000} - 0x401000);
    EXPECT_EQ(load_bias(image, mapping_at(0x20000, 0x1000, false))->value, uint64_t{0x20000} - 0x602000);
    EXPECT_EQ(load_bias(image, mapping_at(0x10000, 0, true))->value, uint64_t{0x10000} - 0x400000);
}

TEST(LoadBias, CodeFromASegmentWithoutCodeHasNoBias) {
    const elf::Image image = image_with({load(PF_R, 0, 0, 0x800), load(PF_R | PF_X, 0x1000, 0x2000, 0x1000)});
    EXPECT_FALSE(load_bias(image, mapping_at(0x10000, 0, true)));
    EXPECT_FALSE(load_bias(image, mapping_at(0x10000, 0x2000, true)));
    EXPECT_TRUE(load_bias(image, mapping_at(0x10000, 0x1000, true)));
    EXPECT_FALSE(load_bias(image_with({}), mapping_at(0x10000, 0, true)));
}

TEST(LoadBias, OfSegmentsAtTheEndOfTheNumbers) {
    const elf::Image image = image_with({load(PF_R | PF_X, UINT64_MAX - 0x10, UINT64_MAX - 0x10, 0x10)});
    EXPECT_FALSE(load_bias(image, mapping_at(0x10000, 0, true)));
    const elf::Image all = image_with({load(PF_R | PF_X, 0x800, 0x800, UINT64_MAX - 0x800)});
    (void)load_bias(all, mapping_at(0x10000, 0x1000, true)); // no overflow that a sanitizer minds
}

// A file without CFI, whose debug file has some; as distributions' musl.
TEST(Module, DebugFrameOfTheSeparateDebugFile) {
    using Vector = std::vector<uint8_t>;
    const TemporaryFolder folder;
    const std::string root = folder / "debug";
    const Vector build_id = {0xab, 0x01, 0xfe};
    const auto write = [&](const std::string &path, const testing::FrameSection *frames) {
        testing::ElfBuilder builder;
        builder.add({".text", Vector(0x100, 0x90), 0x1000, SHF_ALLOC | SHF_EXECINSTR});
        builder.add({".note", testing::note("GNU", NT_GNU_BUILD_ID, build_id), 0, 0, SHT_NOTE});
        if (frames != nullptr)
            builder.add({".debug_frame", frames->data(), 0, 0});
        builder.add_segment(PT_LOAD, PF_R | PF_X, ".text");
        const Vector file = builder.build();
        testing::write_file(path, std::string(file.begin(), file.end()));
    };
    testing::FrameSection frames(true);
    frames.fde(frames.cie(), 0x1000, 0x40);
    std::filesystem::create_directories(root + "/.build-id/ab");
    write(root + "/.build-id/ab/01fe.debug", &frames);
    write(folder / "program", nullptr);

    const LocatedFile file = testing::take(LocatedFile::locate(AT_FDCWD, (folder / "program").c_str()));
    auto fd = std::make_shared<const UniqueFd>(testing::take(file.open()));
    const auto source = std::make_shared<const FileSource>(fd, file.identity().size);
    const auto budget = std::make_shared<ModuleBudget>(ModuleBudget{Budget(1 << 20), Budget(frames.data().size())});
    const Module module(source, fd->get(), file.identity(), budget, root.c_str());
    const auto cfi = module.cfi();
    ASSERT_TRUE(cfi);
    EXPECT_EQ((*cfi)->rule_at(LinkAddr(0x1010)).status, DWUNW_OK);
    EXPECT_EQ((*cfi)->rule_at(LinkAddr(0x1040)).status, DWUNW_ERR_NO_CFI);
    EXPECT_EQ(budget->sections.left(), 0u);
    // What the file says by itself.
    EXPECT_EQ(module.whole_cfi().error().status, DWUNW_ERR_NO_CFI);
    const Module elsewhere(source, fd->get(), file.identity(), nullptr, "/nowhere");
    EXPECT_EQ(elsewhere.cfi().error().status, DWUNW_ERR_NO_CFI);
    // One that has some of its own needs none.
    testing::FrameSection own(true);
    own.fde(own.cie(), 0x1080, 0x10);
    write(folder / "with", &own);
    auto with = testing::take(FileSource::open((folder / "with").c_str()));
    const Module complete(std::make_shared<const FileSource>(std::move(with)), -1, std::nullopt, nullptr, root.c_str());
    EXPECT_EQ(testing::take(complete.cfi())->rule_at(LinkAddr(0x1010)).status, DWUNW_ERR_NO_CFI);
}

} // namespace
} // namespace dwunw::process
