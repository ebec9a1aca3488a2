// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/memory_image.h"

#include "elf/image.h"
#include "process/file_source.h"
#include "process/live_target.h"
#include "process_testing.h"

#include <dlfcn.h>
#include <sys/auxv.h>

namespace dwunw::process {
namespace {

using testing::TemporaryFolder;

struct Self {
    Self() : directory(testing::take(ProcDir::open(::getpid()))), target(testing::take(LiveTarget::open(directory))) {
        read_maps();
    }
    void read_maps() { maps = testing::take(Maps::read(target->maps_fd())); }
    const Mapping &at(const void *address) const { return *maps.find(RunAddr(reinterpret_cast<uint64_t>(address))); }
    auto copy(const void *address) const { return MemoryImage::copy(maps, at(address), *target); }

    ProcDir directory;
    std::shared_ptr<const LiveTarget> target;
    Maps maps;
};

// The first plugin, loaded from a file that is then deleted.
class DeletedPlugin {
  public:
    explicit DeletedPlugin(const char *from) {
        const std::string path = folder_ / "plugin.so";
        std::filesystem::copy_file(from, path);
        handle_ = ::dlopen(path.c_str(), RTLD_NOW);
        std::filesystem::remove(path);
    }
    ~DeletedPlugin() { ::dlclose(handle_); }
    void *code() const { return ::dlsym(handle_, "plugin_value"); }

  private:
    TemporaryFolder folder_;
    void *handle_;
};

TEST(MemoryImage, TheVdsoIsCopiedWhole) {
    const Self self;
    const auto *vdso = reinterpret_cast<const uint8_t *>(::getauxval(AT_SYSINFO_EHDR));
    auto copy = self.copy(vdso);
    ASSERT_TRUE(copy);
    const Mapping &mapping = self.at(vdso);
    ASSERT_EQ((*copy)->size(), mapping.end - mapping.start);
    std::vector<uint8_t> bytes((*copy)->size());
    ASSERT_TRUE((*copy)->read_exactly(FileOffset(0), bytes));
    EXPECT_EQ(std::memcmp(bytes.data(), vdso, bytes.size()), 0);
    auto image = elf::Image::parse(**copy);
    ASSERT_TRUE(image);
    auto eh_frame = image->read_eh_frame(**copy);
    ASSERT_TRUE(eh_frame);
    EXPECT_TRUE(eh_frame->has_value());
}

TEST(MemoryImage, ADeletedFileIsPutTogetherFromItsMappings) {
    const DeletedPlugin plugin(PLUGIN_MOVED);
    const Self self;
    ASSERT_TRUE(self.at(plugin.code()).deleted);
    auto copy = self.copy(plugin.code());
    ASSERT_TRUE(copy);

    auto file = FileSource::open(PLUGIN_MOVED);
    ASSERT_TRUE(file);
    auto of_file = elf::Image::parse(*file);
    auto of_copy = elf::Image::parse(**copy);
    ASSERT_TRUE(of_file);
    ASSERT_TRUE(of_copy);
    EXPECT_EQ(of_copy->build_id(), of_file->build_id());
    EXPECT_FALSE(of_copy->build_id().empty());
    auto from_file = of_file->read_eh_frame(*file);
    auto from_copy = of_copy->read_eh_frame(**copy);
    ASSERT_TRUE(from_file && from_file->has_value());
    ASSERT_TRUE(from_copy && from_copy->has_value());
    // Without section headers the section's end is not known; it is a prefix of what follows it.
    ASSERT_GE((*from_copy)->bytes.size(), (*from_file)->bytes.size());
    EXPECT_TRUE(std::equal((*from_file)->bytes.begin(), (*from_file)->bytes.end(), (*from_copy)->bytes.begin()));
    EXPECT_EQ((*from_copy)->address, (*from_file)->address);
}

TEST(MemoryImage, EqualBytesAreEqualImages) {
    const DeletedPlugin first(PLUGIN_A);
    const DeletedPlugin second(PLUGIN_A);
    const DeletedPlugin other(PLUGIN_B);
    const Self self;
    auto a = self.copy(first.code());
    auto b = self.copy(second.code());
    auto c = self.copy(other.code());
    ASSERT_TRUE(a && b && c);
    EXPECT_TRUE(**a == **b);
    EXPECT_EQ((*a)->hash(), (*b)->hash());
    EXPECT_FALSE(**a == **c);
}

TEST(MemoryImage, HolesReadNoBytes) {
    const size_t page = testing::page_size();
    const UniqueFd file(::memfd_create("holes", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(10 * page)), 0);
    for (size_t i = 0; i < 10; ++i)
        ASSERT_EQ(::pwrite(file.get(), std::string(page, static_cast<char>('0' + i)).data(), page,
                           static_cast<off_t>(i * page)),
                  static_cast<ssize_t>(page));
    auto map = [&](size_t first, size_t count, int protection) {
        return ::mmap(nullptr, count * page, protection, MAP_PRIVATE, file.get(), static_cast<off_t>(first * page));
    };
    void *low = map(1, 2, PROT_READ);
    void *again = map(2, 2, PROT_READ);
    void *high = map(6, 1, PROT_READ | PROT_EXEC);
    void *written = map(8, 1, PROT_READ | PROT_WRITE);
    const Self self;
    auto copy = self.copy(high);
    ASSERT_TRUE(copy);
    EXPECT_EQ((*copy)->size(), 7 * page);
    std::vector<uint8_t> bytes(10 * page);
    EXPECT_EQ((*copy)->read(FileOffset(0), bytes), 0u);
    EXPECT_EQ((*copy)->read(FileOffset(page), bytes), 3 * page);
    EXPECT_EQ(bytes[0], '1');
    EXPECT_EQ(bytes[3 * page - 1], '3');
    EXPECT_EQ((*copy)->read(FileOffset(4 * page - 1), bytes), 1u);
    EXPECT_EQ((*copy)->read(FileOffset(6 * page + 5), bytes), page - 5);
    EXPECT_EQ((*copy)->read(FileOffset(7 * page), bytes), 0u);
    EXPECT_EQ((*copy)->read(FileOffset(UINT64_MAX), bytes), 0u);
    ::munmap(low, 2 * page);
    ::munmap(again, 2 * page);
    ::munmap(high, page);
    ::munmap(written, page);
}

TEST(MemoryImage, AMappingThatChangedMeanwhileIsNotCopied) {
    const size_t page = testing::page_size();
    const UniqueFd one(::memfd_create("one", MFD_CLOEXEC));
    const UniqueFd two(::memfd_create("two", MFD_CLOEXEC));
    for (const int fd : {one.get(), two.get()})
        ASSERT_EQ(::ftruncate(fd, static_cast<off_t>(page)), 0);
    void *address = ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, one.get(), 0);
    Self self;
    ASSERT_TRUE(self.copy(address));
    ASSERT_EQ(::mmap(address, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, two.get(), 0), address);
    auto replaced = self.copy(address);
    ASSERT_FALSE(replaced);
    EXPECT_EQ(replaced.error().status, DWUNW_ERR_MODULE_CHANGED);
    ::munmap(address, page);
    auto unmapped = self.copy(address);
    ASSERT_FALSE(unmapped);
    EXPECT_EQ(unmapped.error().status, DWUNW_ERR_MODULE_CHANGED);
}

TEST(MemoryImage, BeyondTheFilesEndThereIsNothingToRead) {
    const size_t page = testing::page_size();
    const UniqueFd file(::memfd_create("short", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(2 * page)), 0);
    void *address = ::mmap(nullptr, 2 * page, PROT_READ | PROT_EXEC, MAP_PRIVATE, file.get(), 0);
    const Self self;
    ASSERT_EQ(::ftruncate(file.get(), 0), 0); // reading through the mapping would be SIGBUS
    const auto copy = self.copy(address);
    ASSERT_FALSE(copy);
    EXPECT_EQ(copy.error().status, DWUNW_ERR_MEMORY_UNREADABLE);
    ::munmap(address, 2 * page);
}

TEST(MemoryImage, AnImageTooLargeIsRefused) {
    const UniqueFd file(::memfd_create("large", MFD_CLOEXEC));
    const size_t size = kMaxMemoryImageBytes + testing::page_size();
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(size)), 0);
    void *address = ::mmap(nullptr, size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file.get(), 0);
    ASSERT_NE(address, MAP_FAILED);
    const Self self;
    const auto copy = self.copy(address);
    ASSERT_FALSE(copy);
    EXPECT_EQ(copy.error().status, DWUNW_ERR_LIMIT);
    ::munmap(address, size);
}

TEST(SamePlacement, OneFileAtOneBias) {
    auto maps = Maps::parse(
        [] {
            constexpr std::string_view text = "10000-20000 r-xp 00001000 fe:00 5 /a\n"
                                              "20000-30000 r-xp 00011000 fe:00 5 /a\n"
                                              "30000-40000 r-xp 00011000 fe:00 5 /a\n"
                                              "40000-50000 r-xp 00031000 fe:00 6 /a\n"
                                              "50000-60000 r-xp 00041000 fe:01 5 /a\n"
                                              "60000-70000 r--p 00051000 fe:00 5 /a\n"
                                              "70000-80000 r-xp 00000000 00:00 0 \n"
                                              "80000-90000 rw-p 00000000 00:00 0 \n";
            return std::vector<char>(text.begin(), text.end());
        }(),
        Maps::Order::kStrict);
    ASSERT_TRUE(maps);
    const auto &m = maps->mappings();
    EXPECT_TRUE(same_placement(m[0], m[1]));  // split in two
    EXPECT_FALSE(same_placement(m[0], m[2])); // elsewhere
    EXPECT_FALSE(same_placement(m[0], m[3])); // another inode
    EXPECT_FALSE(same_placement(m[0], m[4])); // another device
    EXPECT_FALSE(same_placement(m[0], m[5])); // not code any more
    EXPECT_FALSE(same_placement(m[0], m[6]));
    EXPECT_TRUE(same_placement(m[6], m[7])); // JIT code whose permissions are switched
}

} // namespace
} // namespace dwunw::process
