// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/module_store.h"

#include "process/live_target.h"
#include "process_testing.h"
#include "support/elf_builder.h"
#include "support/peak_memory.h"

#include <sys/auxv.h>
#include <zlib.h>

#include <atomic>
#include <thread>

namespace dwunw::process {
namespace {

using testing::TemporaryFolder;

LocatedFile locate(const std::string &path) { return testing::take(LocatedFile::locate(AT_FDCWD, path.c_str())); }

size_t open_descriptors() {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

TEST(ModuleStore, OneFileIsOneImageAndOnePathOneModule) {
    const TemporaryFolder folder;
    std::filesystem::copy_file(PLUGIN_A, folder / "one.so");
    std::filesystem::create_hard_link(folder / "one.so", folder / "two.so");
    ModuleStore store;
    const size_t before = open_descriptors();
    const auto one = store.intern(locate(folder / "one.so"), "/one.so");
    const auto again = store.intern(locate(folder / "one.so"), "/one.so");
    const auto two = store.intern(locate(folder / "two.so"), "/two.so");
    ASSERT_TRUE(one && again && two);
    EXPECT_EQ(*one, *again);
    EXPECT_NE(*one, *two);
    EXPECT_EQ((*one)->file, (*two)->file);
    EXPECT_EQ((*one)->path, "/one.so");
    EXPECT_EQ((*two)->path, "/two.so");
    EXPECT_EQ(open_descriptors(), before + 1);
}

TEST(ModuleStore, AKnownFileIsKnownByItsIdentity) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    ModuleStore store;
    EXPECT_EQ(store.known(locate(path).identity()), nullptr);
    const FileIdentity before = locate(path).identity();
    const auto module = store.intern(locate(path), path);
    ASSERT_TRUE(module);
    EXPECT_EQ(store.known(before), (*module)->file);
    // Another version of it is another file.
    std::filesystem::resize_file(path, std::filesystem::file_size(path) + 1);
    EXPECT_EQ(store.known(locate(path).identity()), nullptr);
    EXPECT_EQ(store.known(before), (*module)->file);
}

TEST(ModuleStore, ABuildIdDoesNotIdentifyAFile) {
    ModuleStore store;
    const auto a = store.intern(locate(PLUGIN_A), "/plugin.so");
    const auto b = store.intern(locate(PLUGIN_B), "/plugin.so");
    ASSERT_TRUE(a && b);
    ASSERT_TRUE((*a)->file->image() && (*b)->file->image());
    ASSERT_FALSE((*a)->file->image()->build_id().empty());
    ASSERT_EQ((*a)->file->image()->build_id(), (*b)->file->image()->build_id());
    EXPECT_NE(*a, *b);
    EXPECT_NE(*(*a)->file->cfi(), *(*b)->file->cfi());
}

TEST(ModuleStore, AFileRewrittenInPlaceIsANewModuleOnTheSameDescriptor) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    testing::write_file(path, testing::read_file(PLUGIN_A));
    ModuleStore store;
    const auto a = store.intern(locate(path), path);
    ASSERT_TRUE(a);
    EXPECT_TRUE((*a)->file->cfi());
    const size_t before = open_descriptors();
    testing::write_file(path, testing::read_file(PLUGIN_B) + "and more");
    EXPECT_FALSE((*a)->file->unchanged());
    const auto b = store.intern(locate(path), path);
    ASSERT_TRUE(b);
    EXPECT_NE(*a, *b);
    EXPECT_TRUE((*b)->file->unchanged());
    EXPECT_EQ((*a)->file->fd(), (*b)->file->fd());
    EXPECT_EQ(open_descriptors(), before);
}

TEST(ModuleStore, VersionsOfOneFileAreBounded) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    ModuleStore store;
    for (size_t i = 0; i < ModuleStore::kMaxVersions; ++i) {
        std::filesystem::resize_file(path, std::filesystem::file_size(path) + 1);
        ASSERT_TRUE(store.intern(locate(path), path)) << i;
    }
    std::filesystem::resize_file(path, std::filesystem::file_size(path) + 1);
    const auto one_more = store.intern(locate(path), path);
    ASSERT_FALSE(one_more);
    EXPECT_EQ(one_more.error().status, DWUNW_ERR_LIMIT);
}

TEST(ModuleStore, AFileThatIsNotElfIsNotKeptOpen) {
    const TemporaryFolder folder;
    testing::write_file(folder / "text", "not an ELF file");
    testing::write_file(folder / "tiny", "\x7f");
    ModuleStore store;
    const size_t before = open_descriptors();
    for (const char *name : {"text", "tiny"}) {
        const auto module = store.intern(locate(folder / name), name);
        ASSERT_FALSE(module);
        EXPECT_EQ(module.error().status, DWUNW_ERR_NOT_ELF);
    }
    EXPECT_EQ(open_descriptors(), before);
}

TEST(ModuleStore, ADeletedFilesInodeCannotBecomeAnotherFiles) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    ModuleStore store;
    const auto a = store.intern(locate(path), path);
    ASSERT_TRUE(a);
    std::filesystem::remove(path);
    // ext4 hands a freed inode number out again at once; this one is not free.
    for (int i = 0; i < 20; ++i) {
        std::filesystem::copy_file(PLUGIN_B, path);
        EXPECT_NE(locate(path).identity().inode, (*a)->file->identity()->inode);
        std::filesystem::remove(path);
    }
}

TEST(ModuleStore, ImagesFromMemoryAreTheirBytes) {
    const ProcDir self = testing::take(ProcDir::open(::getpid()));
    const auto target = testing::take(LiveTarget::open(self));
    const Maps maps = testing::take(Maps::read(target->maps_fd()));
    const Mapping &vdso = *maps.find(RunAddr(::getauxval(AT_SYSINFO_EHDR)));
    const Mapping &code = *maps.find(RunAddr(reinterpret_cast<uint64_t>(&open_descriptors)));
    ModuleStore store;
    const auto one = store.intern(testing::take(MemoryImage::copy(maps, vdso, *target)), "[vdso]");
    const auto two = store.intern(testing::take(MemoryImage::copy(maps, vdso, *target)), "[vdso]");
    const auto other = store.intern(testing::take(MemoryImage::copy(maps, code, *target)), "[vdso]");
    ASSERT_TRUE(one && two && other);
    EXPECT_EQ(*one, *two);
    EXPECT_NE(*one, *other);
    EXPECT_EQ((*one)->file->fd(), -1);
    EXPECT_TRUE((*one)->file->cfi());
}

// Their hashes are equal; where the bytes lie is part of what they are.
TEST(ModuleStore, ImagesFromMemoryAreNotTheirHashes) {
    const TemporaryFolder folder;
    const size_t page = testing::page_size();
    const std::string first = testing::read_file(PLUGIN_A).substr(0, page);
    const std::string last(page, 'x');
    const ProcDir self = testing::take(ProcDir::open(::getpid()));
    const auto target = testing::take(LiveTarget::open(self));
    std::vector<std::unique_ptr<const MemoryImage>> images;
    for (const size_t hole : {page, 2 * page}) {
        const std::string path = folder / std::to_string(hole);
        testing::write_file(path, first + std::string(hole, '\0') + last);
        const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        auto *const begin = static_cast<char *>(::mmap(nullptr, 2 * page + hole, PROT_READ, MAP_PRIVATE, fd.get(), 0));
        ASSERT_NE(begin, MAP_FAILED);
        ::munmap(begin + page, hole);
        const Maps maps = testing::take(Maps::read(target->maps_fd()));
        images.push_back(
            testing::take(MemoryImage::copy(maps, *maps.find(RunAddr(reinterpret_cast<uint64_t>(begin))), *target)));
        ::munmap(begin, 2 * page + hole);
    }
    ASSERT_EQ(images[0]->hash(), images[1]->hash());
    ModuleStore store;
    const auto one = store.intern(std::move(images[0]), "plugin.so");
    const auto two = store.intern(std::move(images[1]), "plugin.so");
    ASSERT_TRUE(one && two);
    EXPECT_NE(*one, *two);
}

TEST(ModuleStore, UnusableModulesHaveTheirNameAndReason) {
    ModuleStore store;
    const dwunw_module *module = store.intern_unusable("/gone", DWUNW_ERR_NO_FILE);
    EXPECT_EQ(module->path, "/gone");
    EXPECT_EQ(module->status, DWUNW_ERR_NO_FILE);
    EXPECT_EQ(module->file, nullptr);
    EXPECT_EQ(store.intern_unusable("/gone", DWUNW_ERR_NO_FILE), module);
    EXPECT_NE(store.intern_unusable("/gone", DWUNW_ERR_PERMISSION), module);
}

TEST(ModuleStore, ManyThreadsInternOneModule) {
    const TemporaryFolder folder;
    std::filesystem::copy_file(PLUGIN_A, folder / "plugin.so");
    const size_t before = open_descriptors();
    // They meet in the middle of it only now and then.
    for (int round = 0; round < 300; ++round) {
        ModuleStore store;
        std::vector<const dwunw_module *> seen(4);
        std::vector<std::thread> threads;
        std::atomic<size_t> ready = 0;
        for (auto &each : seen)
            threads.emplace_back([&] {
                const LocatedFile file = locate(folder / "plugin.so");
                ++ready;
                while (ready < seen.size())
                    std::this_thread::yield();
                each = *store.intern(file, "/plugin.so");
            });
        for (std::thread &thread : threads)
            thread.join();
        for (const dwunw_module *each : seen)
            ASSERT_EQ(each, seen[0]);
        ASSERT_EQ(open_descriptors(), before + 1);
    }
}

const Module &file_of(ModuleStore &store, const std::string &path) {
    return *testing::take(store.intern(locate(path), path))->file;
}

TEST(ModuleStore, ASmallModuleIsCompiledAtOnce) {
    ModuleStore store;
    const auto cfi = testing::take(store.cfi(file_of(store, PLUGIN_A)));
    EXPECT_NE(cfi->table(), nullptr);
    const auto totals = store.totals();
    EXPECT_EQ(totals.modules, 1u);
    EXPECT_EQ(totals.compiled, 1u);
    EXPECT_EQ(totals.evicted, 0u);
    EXPECT_EQ(totals.failed, 0u);
    EXPECT_EQ(totals.table_bytes, cfi->memory_bytes());
}

TEST(ModuleStore, ABigModuleIsCompiledInTheBackground) {
    ModuleStore store;
    const Module &file = file_of(store, "/lib/x86_64-linux-gnu/libc.so.6");
    const auto cfi = testing::take(store.cfi(file));
    ASSERT_GT(cfi->section_bytes(), ModuleStore::kCompileAtOnce);
    store.wait_for_tables();
    EXPECT_NE(cfi->table(), nullptr);
    EXPECT_EQ(testing::take(store.cfi(file)), cfi);
    store.wait_for_tables();
    EXPECT_EQ(store.totals().compiled, 1u);
}

TEST(ModuleStore, TheLeastRecentlyUsedIsEvicted) {
    const TemporaryFolder folder;
    for (const char *name : {"a.so", "b.so", "c.so"})
        std::filesystem::copy_file(PLUGIN_A, folder / name);
    size_t each = 0;
    {
        ModuleStore store;
        each = testing::take(store.cfi(file_of(store, folder / "a.so")))->memory_bytes();
    }
    ModuleStore store(2 * each);
    const Module &a = file_of(store, folder / "a.so");
    const Module &b = file_of(store, folder / "b.so");
    const Module &c = file_of(store, folder / "c.so");
    (void)store.cfi(a);
    (void)store.cfi(b);
    (void)store.cfi(a);
    EXPECT_EQ(store.totals().evicted, 0u);
    (void)store.cfi(c);
    EXPECT_EQ(b.cfi_bytes(), 0u);
    EXPECT_NE(a.cfi_bytes(), 0u);
    EXPECT_EQ(store.totals().evicted, 1u);
    EXPECT_EQ(store.totals().table_bytes, 2 * each);
    // A table that is held stays, and a table that comes back is equal to the old one.
    const auto held_a = testing::take(store.cfi(a));
    const auto held_c = testing::take(store.cfi(c));
    const auto held_b = testing::take(store.cfi(b));
    EXPECT_NE(held_b->table(), nullptr);
    EXPECT_EQ(store.totals().table_bytes, 3 * each);
}

// A file that has a .debug_frame of `size` bytes, packed or not.
void write_with_debug_frame(const std::string &path, size_t size, bool packed) {
    testing::ElfBuilder builder;
    std::vector<uint8_t> bytes(size);
    if (packed) {
        const Elf64_Chdr header{ELFCOMPRESS_ZLIB, 0, size, 8};
        uLongf length = ::compressBound(size);
        std::vector<uint8_t> deflated(length);
        EXPECT_EQ(::compress(deflated.data(), &length, bytes.data(), size), Z_OK);
        bytes.assign(reinterpret_cast<const uint8_t *>(&header), reinterpret_cast<const uint8_t *>(&header + 1));
        bytes.insert(bytes.end(), deflated.begin(), deflated.begin() + static_cast<ptrdiff_t>(length));
    }
    builder.add({".text", std::vector<uint8_t>(16), 0x1000});
    builder.add({".debug_frame", bytes, 0, packed ? uint64_t{SHF_COMPRESSED} : 0});
    builder.add_segment(PT_LOAD, PF_R | PF_X, ".text");
    const auto file = builder.build();
    testing::write_file(path, std::string(file.begin(), file.end()));
}

// Many small files that each become a megabyte: together they have what one of them may.
TEST(ModuleStore, ManyFilesThatExpandShareABudget) {
    constexpr size_t kEach = elf::kSmallExpanded;
    const TemporaryFolder folder;
    ModuleStore store(ModuleStore::kDefaultBudget, ModuleStore::kImageBudget, 4 * kEach);
    std::vector<const Module *> files;
    for (int i = 0; i < 64; ++i) {
        const std::string path = folder / std::to_string(i);
        write_with_debug_frame(path, kEach, i % 2 == 0);
        files.push_back(&file_of(store, path));
    }
    const uint64_t grown = testing::peak_growth([&] {
        for (const Module *file : files) {
            if (!store.cfi(*file))
                return false;
            store.wait_for_tables(); // it is not held any more, and makes room for the next
        }
        return store.totals().table_bytes < 6 * kEach;
    });
    EXPECT_LT(grown, 24 * kEach);

    std::vector<std::shared_ptr<const unwind::ModuleCfi>> held;
    for (size_t i = 0; i < 4; ++i)
        held.push_back(testing::take(store.cfi(*files[i])));
    const auto refused = store.cfi(*files[4]);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().status, DWUNW_ERR_LIMIT);
    EXPECT_EQ(refused.error().value, kEach);
    store.wait_for_tables();
    held.pop_back();
    EXPECT_TRUE(store.cfi(*files[4])); // it was not remembered
}

TEST(ModuleStore, HeadersShareABudget) {
    const TemporaryFolder folder;
    for (const char *name : {"a.so", "b.so"})
        std::filesystem::copy_file(PLUGIN_A, folder / name);
    size_t each = 0;
    {
        ModuleStore store;
        each = file_of(store, folder / "a.so").image()->memory_bytes();
        EXPECT_GT(each, sizeof(elf::Image));
    }
    ModuleStore store(ModuleStore::kDefaultBudget, each + each / 2);
    EXPECT_TRUE(file_of(store, folder / "a.so").image());
    const Module &late = file_of(store, folder / "b.so");
    ASSERT_FALSE(late.image());
    EXPECT_EQ(late.image().error().status, DWUNW_ERR_LIMIT);
    EXPECT_EQ(store.cfi(late).error().status, DWUNW_ERR_LIMIT);
}

} // namespace
} // namespace dwunw::process
