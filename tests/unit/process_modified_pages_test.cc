// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/modified_pages.h"

#include "process_testing.h"

namespace dwunw::process {
namespace {

using testing::Child;
using testing::page_size;
using Method = ModifiedPages::Method;
using Ranges = std::vector<ModifiedPages::Range>;

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kWritten = 128 * kGiB;
constexpr uint64_t kUntouched = 30'000 * kGiB;

// A child that maps a sparse file twice: little of it written to, and very much of it not touched.
class Sparse {
  public:
    Sparse()
        : child_([](const Child::Line &line) {
              const int fd = ::memfd_create("sparse", MFD_CLOEXEC);
              const auto map = [&](uint64_t size) {
                  void *const memory =
                      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
                  if (memory == MAP_FAILED)
                      ::_exit(1);
                  line.say(reinterpret_cast<uint64_t>(memory));
                  return static_cast<volatile char *>(memory);
              };
              if (::ftruncate(fd, static_cast<off_t>(kUntouched)) != 0)
                  ::_exit(1);
              volatile char *const written = map(kWritten);
              map(kUntouched);
              const size_t page = page_size();
              for (const uint64_t at : {uint64_t{0}, 5 * page, 6 * page, kWritten - page})
                  written[at] = 1;
              const char read = written[9 * page]; // is the file's
              line.say(static_cast<uint64_t>(read));
              line.hear();
          }),
          process_(testing::take(ProcDir::open(child_.pid()))), written_(child_.hear()), untouched_(child_.hear()) {
        child_.hear();
    }

    const ProcDir &process() const { return process_; }
    Mapping written() const { return mapping(written_, kWritten); }
    Mapping untouched() const { return mapping(untouched_, kUntouched); }
    Ranges expected() const {
        const size_t page = page_size();
        return {{written_, written_ + page},
                {written_ + 5 * page, written_ + 7 * page},
                {written_ + kWritten - page, written_ + kWritten}};
    }

  private:
    static Mapping mapping(uint64_t start, uint64_t size) {
        Mapping mapping;
        mapping.start = RunAddr(start);
        mapping.end = RunAddr(start + size);
        return mapping;
    }
    Child child_;
    ProcDir process_;
    uint64_t written_;
    uint64_t untouched_;
};

// 30,000 GiB of private mappings that were never written to took 29 s, with the process stopped.
TEST(ModifiedPages, WorkGoesByThePagesThatAreThere) {
    const Sparse sparse;
    ModifiedPages scan(sparse.process(), Method::kScan);
    EXPECT_EQ(scan.of(sparse.written()), sparse.expected());
    EXPECT_EQ(scan.of(sparse.untouched()), Ranges());
    // Or the kernel has no such scan.
    EXPECT_TRUE(scan.pages_read() == 0 || scan.pages_read() == kWritten / page_size()) << scan.pages_read();
}

TEST(ModifiedPages, BeforeLinux67SmapsSaysWhereThereAreAny) {
    const Sparse sparse;
    ModifiedPages pages(sparse.process(), Method::kPageMap);
    EXPECT_EQ(pages.of(sparse.written()), sparse.expected());
    EXPECT_EQ(pages.of(sparse.untouched()), Ranges());
    EXPECT_EQ(pages.pages_read(), kWritten / page_size());
}

TEST(ModifiedPages, AProcessThatIsGone) {
    const Child child([](const Child::Line &) {});
    const ProcDir process = testing::take(ProcDir::open(child.pid()));
    child.wait_for_zombie();
    Mapping mapping;
    mapping.start = RunAddr(0x10000);
    mapping.end = RunAddr(0x20000);
    for (const Method method : {Method::kScan, Method::kPageMap})
        EXPECT_EQ(ModifiedPages(process, method).of(mapping), std::nullopt);
}

} // namespace
} // namespace dwunw::process
