// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/process_memory.h"

#include "process/maps.h"
#include "process_testing.h"

#include <sys/prctl.h>

#include <thread>
#include <vector>

namespace dwunw::process {
namespace {

using testing::Child;

struct Opened {
    explicit Opened(pid_t pid) : directory(testing::take(ProcDir::open(pid))), memory(ProcessMemory::open(directory)) {}
    size_t read(uint64_t address, std::span<uint8_t> buffer) const { return memory.read(RunAddr(address), buffer); }
    ProcDir directory;
    ProcessMemory memory;
};

// Pages of one child, filled with their number; the last one of them unmapped, the one before without read permission.
constexpr size_t kPages = 200;

uint64_t map_pages() {
    const size_t page = testing::page_size();
    auto *pages = static_cast<uint8_t *>(
        ::mmap(nullptr, kPages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < kPages; ++i)
        std::fill_n(pages + i * page, page, static_cast<uint8_t>(i));
    ::mprotect(pages + (kPages - 2) * page, page, PROT_NONE);
    ::munmap(pages + (kPages - 1) * page, page);
    return reinterpret_cast<uint64_t>(pages);
}

TEST(ProcessMemory, ReadsUpToTheFirstPageThatIsNotThere) {
    Child child([](const Child::Line &line) {
        line.say(map_pages());
        line.hear();
    });
    const uint64_t pages = child.hear();
    const size_t page = testing::page_size();
    const Opened opened(child.pid());

    std::vector<uint8_t> buffer(kPages * page);
    const auto all = opened.read(pages, buffer);
    // The unreadable page comes from /proc/PID/mem, which the kernel lets a tracer read.
    EXPECT_EQ(all, (kPages - 1) * page);
    for (size_t i = 0; i < kPages - 1; ++i) {
        ASSERT_EQ(buffer[i * page], static_cast<uint8_t>(i));
        ASSERT_EQ(buffer[i * page + page - 1], static_cast<uint8_t>(i));
    }
    EXPECT_EQ(opened.read(pages + (kPages - 1) * page - 5, std::span(buffer).first(16)), 5u);
    EXPECT_EQ(opened.read(pages + (kPages - 1) * page, std::span(buffer).first(16)), 0u);
    EXPECT_EQ(opened.read(pages + 3 * page - 1, std::span(buffer).first(2)), 2u);
    EXPECT_EQ(buffer[0], 2);
    EXPECT_EQ(buffer[1], 3);
    EXPECT_EQ(opened.read(pages, {}), 0u);
}

TEST(ProcessMemory, AddressesThatNoProcessHas) {
    const Opened opened(::getpid());
    std::vector<uint8_t> buffer(64);
    for (const uint64_t address : {uint64_t{0}, uint64_t{8}, UINT64_MAX, UINT64_MAX - 31, uint64_t{1} << 63,
                                   (uint64_t{1} << 63) - 16, uint64_t{0x0000800000000000}})
        EXPECT_EQ(opened.read(address, buffer), 0u) << std::hex << address;
}

TEST(ProcessMemory, ReadsNothingAfterTheProcessEnds) {
    Child child([](const Child::Line &line) {
        line.say(map_pages());
        line.hear();
    });
    const uint64_t pages = child.hear();
    const Opened opened(child.pid());
    std::vector<uint8_t> buffer(64);
    EXPECT_EQ(opened.read(pages, buffer), 64u);
    child.kill_to_zombie();
    EXPECT_EQ(opened.read(pages, buffer), 0u);
    child.reap();
    EXPECT_EQ(opened.read(pages, buffer), 0u);
}

TEST(ProcessMemory, NotTheMemoryOfWhoGotItsNumber) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    // Both children have this page, at this address: process_vm_readv would read the second's.
    const uint64_t pages = map_pages();
    auto first = std::make_unique<Child>([](const Child::Line &line) { line.hear(); });
    const pid_t pid = first->pid();
    const Opened opened(pid);
    std::vector<uint8_t> buffer(64);
    EXPECT_EQ(opened.read(pages, buffer), 64u);
    first.reset();
    Child second([](const Child::Line &line) { line.hear(); }, pid);
    ASSERT_EQ(second.pid(), pid) << std::strerror(second.error());
    EXPECT_EQ(Opened(pid).read(pages, buffer), 64u);
    EXPECT_EQ(opened.read(pages, buffer), 0u);
    ::munmap(reinterpret_cast<void *>(pages), kPages * testing::page_size());
}

TEST(ProcessMemory, ANumberTakenBeforeThePidfdWasMadeIsNoticed) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    const uint64_t pages = map_pages();
    auto first = std::make_unique<Child>([](const Child::Line &line) { line.hear(); });
    const pid_t pid = first->pid();
    const ProcDir directory = testing::take(ProcDir::open(pid));
    first.reset();
    Child second([](const Child::Line &line) { line.hear(); }, pid);
    ASSERT_EQ(second.pid(), pid) << std::strerror(second.error());
    const ProcessMemory memory = ProcessMemory::open(directory);
    std::vector<uint8_t> buffer(64);
    EXPECT_EQ(memory.read(RunAddr(pages), buffer), 0u);
    ::munmap(reinterpret_cast<void *>(pages), kPages * testing::page_size());
}

} // namespace
} // namespace dwunw::process
