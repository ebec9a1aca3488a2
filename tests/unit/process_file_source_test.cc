// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/file_source.h"

#include "process_testing.h"

#include <sys/resource.h>

#include <array>
#include <thread>

namespace dwunw::process {
namespace {

using testing::Child;
using testing::TemporaryFolder;
using testing::write_file;

std::string read_all(const ByteSource &source, uint64_t offset = 0, size_t size = 100) {
    std::vector<uint8_t> buffer(size);
    const size_t got = source.read(FileOffset(offset), buffer);
    return {buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(got)};
}

TEST(FileSource, ReadsWhereAsked) {
    const TemporaryFolder folder;
    write_file(folder / "file", "0123456789");
    auto source = FileSource::open((folder / "file").c_str());
    ASSERT_TRUE(source);
    EXPECT_EQ(source->size(), 10u);
    EXPECT_EQ(read_all(*source), "0123456789");
    EXPECT_EQ(read_all(*source, 4, 3), "456");
    EXPECT_EQ(read_all(*source, 8), "89");
    EXPECT_EQ(read_all(*source, 10), "");
    EXPECT_EQ(read_all(*source, UINT64_MAX), "");
    EXPECT_EQ(read_all(*source, uint64_t{1} << 63), "");
}

TEST(FileSource, TruncatedAfterOpeningReadsShortAndGrownReadsNoMore) {
    const TemporaryFolder folder;
    write_file(folder / "file", std::string(5000, 'a'));
    auto source = FileSource::open((folder / "file").c_str());
    ASSERT_TRUE(source);
    ASSERT_EQ(::truncate((folder / "file").c_str(), 4100), 0);
    EXPECT_EQ(read_all(*source, 4090), std::string(10, 'a'));
    EXPECT_EQ(read_all(*source, 4100), "");
    ASSERT_EQ(::truncate((folder / "file").c_str(), 9000), 0);
    EXPECT_EQ(read_all(*source, 4990).size(), 10u);
}

TEST(LocatedFile, OnlyRegularFilesAreOpened) {
    const TemporaryFolder folder;
    // Opening this one for reading would wait for a writer that never comes.
    ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
    for (const std::string &path : {folder / "fifo", folder / ".", std::string("/dev/null")}) {
        const auto file = LocatedFile::locate(AT_FDCWD, path.c_str());
        ASSERT_FALSE(file) << path;
        EXPECT_EQ(file.error().status, DWUNW_ERR_NOT_ELF) << path;
        EXPECT_FALSE(FileSource::open(path.c_str())) << path;
    }
    const auto missing = LocatedFile::locate(AT_FDCWD, (folder / "missing").c_str());
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().status, DWUNW_ERR_NO_FILE);
    write_file(folder / "file", "");
    const auto below = LocatedFile::locate(AT_FDCWD, (folder / "file/below").c_str());
    ASSERT_FALSE(below);
    EXPECT_EQ(below.error().status, DWUNW_ERR_NO_FILE);
}

TEST(LocatedFile, OpensTheCheckedFileAfterThePathHasChanged) {
    const TemporaryFolder folder;
    write_file(folder / "file", "the old one");
    auto file = LocatedFile::locate(AT_FDCWD, (folder / "file").c_str());
    ASSERT_TRUE(file);
    write_file(folder / "new", "the new one");
    std::filesystem::rename(folder / "new", folder / "file");
    auto fd = file->open();
    ASSERT_TRUE(fd);
    const FileSource source(std::make_shared<const UniqueFd>(std::move(*fd)), file->identity().size);
    EXPECT_EQ(read_all(source), "the old one");
}

TEST(LocatedFile, NoRightsAndNoDescriptorsAreToldApart) {
    const TemporaryFolder folder;
    write_file(folder / "secret", "x");
    ASSERT_EQ(::chmod((folder / "secret").c_str(), 0), 0);
    std::filesystem::permissions(std::filesystem::path(folder / "secret").parent_path(), std::filesystem::perms::all);
    const std::string path = folder / "secret";
    Child child([&](const Child::Line &line) {
        auto status_of = [&] {
            const auto file = FileSource::open(path.c_str());
            return static_cast<uint64_t>(file ? DWUNW_OK : file.error().status);
        };
        const rlimit none{0, 0};
        rlimit before{};
        ::getrlimit(RLIMIT_NOFILE, &before);
        rlimit low = before;
        low.rlim_cur = none.rlim_cur;
        ::setrlimit(RLIMIT_NOFILE, &low);
        line.say(status_of());
        ::setrlimit(RLIMIT_NOFILE, &before);
        if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0)
            ::_exit(1);
        line.say(status_of());
    });
    EXPECT_EQ(child.hear(), DWUNW_ERR_TOO_MANY_FILES);
    EXPECT_EQ(child.hear(), DWUNW_ERR_PERMISSION);
}

TEST(FileIdentity, ChangesWithTheContentEvenUnderAForgedTime) {
    const TemporaryFolder folder;
    const std::string path = folder / "file";
    write_file(path, "content");
    auto identity = [&] {
        auto file = LocatedFile::locate(AT_FDCWD, path.c_str());
        EXPECT_TRUE(file);
        return file->identity();
    };
    const FileIdentity first = identity();
    EXPECT_EQ(read_all(*FileSource::open(path.c_str())), "content");
    EXPECT_EQ(identity(), first);

    // Same inode, size and mtime; ctime is the kernel's clock, which ticks every few milliseconds.
    struct stat status;
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    FileIdentity forged = first;
    for (const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
         forged == first && std::chrono::steady_clock::now() < deadline; forged = identity()) {
        UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
        ASSERT_EQ(::pwrite(fd.get(), "CONTENT", 7, 0), 7);
        const timespec times[2] = {status.st_atim, status.st_mtim};
        ASSERT_EQ(::futimens(fd.get(), times), 0);
    }
    EXPECT_NE(forged, first);
    EXPECT_TRUE(forged.same_inode(first));
    EXPECT_EQ(forged.mtime, first.mtime);
    EXPECT_EQ(forged.size, first.size);
}

} // namespace
} // namespace dwunw::process
