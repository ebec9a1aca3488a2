// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/module_store.h"

#include "process_testing.h"

#include <sys/auxv.h>

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

TEST(ModuleStore, ABuildIdIdentifiesNothing) {
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

TEST(ModuleStore, WhatIsNotElfIsNotKeptOpen) {
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
    const auto target = testing::take(Target::open(self));
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
    ModuleStore store;
    const size_t before = open_descriptors();
    std::vector<const dwunw_module *> seen(8);
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
        EXPECT_EQ(each, seen[0]);
    EXPECT_EQ(open_descriptors(), before + 1);
}

} // namespace
} // namespace dwunw::process
