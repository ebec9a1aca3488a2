// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/moment.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>

namespace dwunw::bpf {
namespace {

using process::Process;
using unwind::CodeKind;

uint64_t now_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// This process is looked at. Files are mapped in each other's place, and are gone when they are asked about.
class MomentTest : public ::testing::Test {
  protected:
    MomentTest() {
        for (const char *name : {"a", "b"}) {
            const auto copy = folder_ / name;
            std::filesystem::copy_file("/proc/self/exe", copy, std::filesystem::copy_options::overwrite_existing);
            // Not as new as what is mapped now: see changed_since.
            const timespec old[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
            ::utimensat(AT_FDCWD, copy.c_str(), old, 0);
        }
        auto opened = Process::open(store_, ::getpid(), std::nullopt);
        process_ = std::move(*opened);
        reading_.begin = now_ns();
        EXPECT_TRUE(process_->refresh());
        reading_.end = now_ns();
        (void)process_->code_mappings();
        reading_.snapshot = process_->snapshot();
    }
    ~MomentTest() override { std::filesystem::remove_all(folder_); }

    // Where this program's code lies in its file.
    static process::Mapping own_code() {
        static const auto maps = process::Maps::read(::open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
        return *maps->find(RunAddr(reinterpret_cast<uint64_t>(&now_ns)));
    }
    uint64_t came(uint64_t time, const std::string &name, bool anonymous = false) {
        const auto path = folder_ / name;
        struct stat status {};
        EXPECT_EQ(::stat(path.c_str(), &status), 0);
        auto mapped = std::make_shared<Mapped>();
        mapped->time = time;
        mapped->path = path;
        mapped->mapping = own_code();
        mapped->mapping.path = mapped->path;
        mapped->mapping.start = RunAddr(kPlace);
        mapped->mapping.end = RunAddr(kPlace) + (own_code().end - own_code().start);
        mapped->mapping.inode = status.st_ino;
        mapped->mapping.device_major = major(status.st_dev);
        mapped->mapping.device_minor = minor(status.st_dev);
        if (anonymous)
            mapped->mapping.kind = process::Mapping::Kind::kAnonymous;
        history_.add(mapped);
        return time;
    }
    // Copies are as new as this test: what comes in a while is of a later time than they are.
    static uint64_t later(uint64_t ms) { return now_ns() + ms * 1'000'000; }

    unwind::CodeLocation at(uint64_t time, uint64_t address = kPlace + 0x10) {
        Moment moment(*process_, reading_, history_, time, checks_, now_ns() + passed_);
        return moment.find(RunAddr(address));
    }
    std::string file_at(uint64_t time) {
        const auto location = at(time);
        return location.module != nullptr ? std::filesystem::path(location.module->path).filename().string() : "";
    }

    static constexpr uint64_t kPlace = 0x10000000000;
    const std::filesystem::path folder_ = [] {
        std::string name = std::filesystem::temp_directory_path() / "dwunw_moment_XXXXXX";
        return std::filesystem::path(::mkdtemp(name.data()));
    }();
    process::ModuleStore store_;
    std::unique_ptr<Process> process_;
    MapReading reading_;
    MapHistory history_;
    FileChecks checks_;
    uint64_t passed_ = 0;
};

TEST_F(MomentTest, OneFileAfterAnotherInOnePlace) {
    const uint64_t a = came(later(1000), "a");
    const uint64_t b = came(later(2000), "b");
    EXPECT_EQ(file_at(a - 1), "");
    EXPECT_EQ(at(a - 1).kind, CodeKind::kUnmapped);
    EXPECT_EQ(file_at(a), "a");
    EXPECT_EQ(file_at(b - 1), "a");
    EXPECT_EQ(file_at(b), "b");
    EXPECT_EQ(at(b).kind, CodeKind::kModule);
    EXPECT_NE(at(b).cfi, nullptr);
    EXPECT_EQ(at(b).bias.run(LinkAddr(own_code().offset.value)).value, kPlace);
}

TEST_F(MomentTest, EarlierMappingsStay) {
    const auto location = at(now_ns(), reinterpret_cast<uint64_t>(&now_ns));
    EXPECT_EQ(location.kind, CodeKind::kModule);
    std::array<uint8_t, 8> code{};
    Moment moment(*process_, reading_, history_, now_ns(), checks_, now_ns());
    ASSERT_TRUE(moment.read_code(RunAddr(reinterpret_cast<uint64_t>(&now_ns)), code));
    EXPECT_EQ(std::memcmp(code.data(), reinterpret_cast<const void *>(&now_ns), code.size()), 0);
}

TEST_F(MomentTest, AFileThatIsDeletedIsKnownByItsInode) {
    const uint64_t a = came(later(1000), "a");
    ASSERT_EQ(file_at(a), "a");
    const uint64_t again = came(later(2000), "a");
    std::filesystem::remove(folder_ / "a");
    EXPECT_EQ(file_at(again), "") << "its link count is part of its times: it may have been written to";
}

// Written to in place between its load and now: the rules of today are not those of then.
TEST_F(MomentTest, AFileThatHasChangedSince) {
    reading_.begin = 0;
    const uint64_t loaded = came(now_ns() - 10'000'000'000, "a"); // the copy is newer
    EXPECT_EQ(at(loaded).kind, CodeKind::kUnusableModule);
    EXPECT_EQ(at(loaded).status, DWUNW_ERR_MODULE_CHANGED);
    const uint64_t b = came(later(1000), "b");
    ASSERT_EQ(file_at(b), "b");
    std::ofstream(folder_ / "b", std::ios::app) << "more";
    passed_ = 2 * FileChecks::kAskAgainAfter;
    EXPECT_EQ(at(b).kind, CodeKind::kUnusableModule) << "since it was asked about";
}

TEST_F(MomentTest, CodeWithoutAFileIsNotUsed) {
    const uint64_t jit = came(later(1000), "a", true);
    EXPECT_EQ(at(jit).kind, CodeKind::kUnusableModule);
    std::array<uint8_t, 4> code{};
    Moment moment(*process_, reading_, history_, jit, checks_, now_ns());
    EXPECT_FALSE(moment.read_code(RunAddr(kPlace), code));
}

// No map of the program was read: what came since its exec is all there is, and the old program's is gone.
TEST_F(MomentTest, AProgramThatWasNeverReadIsKnownByItsExec) {
    came(later(1000), "a");
    const uint64_t exec = later(2000);
    const uint64_t b = later(3000);
    const auto at_exec = [&](uint64_t address) {
        Moment moment(*process_, exec, history_, later(4000), checks_, now_ns());
        return moment.find(RunAddr(address));
    };
    EXPECT_EQ(at_exec(kPlace + 0x10).status, DWUNW_ERR_MODULE_CHANGED) << "the old program's";
    EXPECT_EQ(at_exec(reinterpret_cast<uint64_t>(&now_ns)).kind, CodeKind::kUnusableModule) << "that of the reading";
    came(b, "b");
    ASSERT_EQ(at_exec(kPlace + 0x10).kind, CodeKind::kModule);
    EXPECT_EQ(std::filesystem::path(at_exec(kPlace + 0x10).module->path).filename(), "b");
}

} // namespace
} // namespace dwunw::bpf
