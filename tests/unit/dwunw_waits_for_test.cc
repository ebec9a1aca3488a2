// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "waits_for.h"

#include "process_testing.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <array>

namespace dwunw_tool {
namespace {

using dwunw::testing::Child;
using dwunw::testing::soon;

TEST(WaitsFor, AProcessThatReadsNothing) {
    const Child child([](const Child::Line &line) {
        line.say();
        ::pause();
    });
    child.hear();
    EXPECT_EQ(waits_for(child.pid()), "");
    EXPECT_EQ(waits_for(0x7fffffff), "");
}

TEST(WaitsFor, AFileByItsPath) {
    const dwunw::testing::TemporaryFolder folder;
    const std::string path = folder / "fifo\n";
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    const Child child([&](const Child::Line &) { ::open(path.c_str(), O_RDONLY); });
    EXPECT_TRUE(soon([&] { return waits_for(child.pid()) == folder / "fifo\\x0a"; }));
}

TEST(WaitsFor, AFileByItsDescriptor) {
    const dwunw::testing::TemporaryFolder folder;
    const std::string path = folder / "fifo";
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    const Child child([&](const Child::Line &) {
        const int fd = ::open(path.c_str(), O_RDWR);
        char byte;
        if (::read(fd, &byte, 1) != 1)
            ::_exit(1);
    });
    EXPECT_TRUE(soon([&] { return waits_for(child.pid()) == path; }));
}

// A page of a userfaultfd that never answers, between two others.
class Memory : public ::testing::Test {
  protected:
    void SetUp() override {
        if (const std::string missing = dwunw::testing::rights_missing(); !missing.empty())
            GTEST_SKIP() << missing;
        size_ = 3 * dwunw::testing::page_size();
        pages_ =
            static_cast<char *>(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        ASSERT_NE(pages_, MAP_FAILED);
        fd_ = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC));
        ASSERT_GE(fd_, 0);
        uffdio_api api{UFFD_API, 0, 0};
        ASSERT_EQ(::ioctl(fd_, UFFDIO_API, &api), 0);
        uffdio_register range{};
        range.range = {reinterpret_cast<uint64_t>(pages_), size_};
        range.mode = UFFDIO_REGISTER_MODE_MISSING;
        ASSERT_EQ(::ioctl(fd_, UFFDIO_REGISTER, &range), 0);
    }
    void TearDown() override {
        if (fd_ >= 0)
            ::close(fd_);
        if (size_ != 0)
            ::munmap(pages_, size_);
    }
    std::string expected() const {
        std::array<char, 64> text;
        const auto start = reinterpret_cast<unsigned long>(pages_);
        std::snprintf(text.data(), text.size(), "memory at %#lx-%#lx", start, start + size_);
        return text.data();
    }

    char *pages_ = nullptr;
    size_t size_ = 0;
    int fd_ = -1;
};

TEST_F(Memory, AllPiecesOfIt) {
    const pid_t self = ::getpid();
    const Child child([&](const Child::Line &) {
        std::array<char, 65536> buffer;
        const size_t half = size_ / 2;
        const iovec local{buffer.data(), size_};
        const std::array<iovec, 2> remote{{{pages_, half}, {pages_ + half, size_ - half}}};
        if (::process_vm_readv(self, &local, 1, remote.data(), remote.size(), 0) < 0)
            ::_exit(1);
    });
    EXPECT_TRUE(soon([&] { return waits_for(child.pid()) == expected(); }));
}

} // namespace
} // namespace dwunw_tool
