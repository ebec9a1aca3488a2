// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process that changes: its map, the files of its mappings, the program that it executes; its end, and its number in
// another process.
#include "process/process.h"

#include "process_testing.h"
#include "support/opened_process.h"

#include <sstream>

namespace dwunw::process {
namespace {

using testing::address_of;
using testing::Child;
using testing::MappedCode;
using testing::module_path;
using testing::open_process;
using testing::soon;
using testing::TemporaryFolder;
using unwind::CodeKind;
using unwind::CodeLocation;

// Executes cat, which sends back what it is sent: once it has, the new program is all there.
void become_cat(const Child::Line &line) {
    line.hear();
    ::dup2(line.in.get(), STDIN_FILENO);
    ::dup2(line.out.get(), STDOUT_FILENO);
    ::execl("/bin/cat", "cat", nullptr);
}

void make_cat_of(const Child &child) {
    child.say();
    child.say(1234);
    ASSERT_EQ(child.hear(), 1234u);
}

TEST(Process, AnUnknownPcReadsTheMapOnce) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    const MappedCode a(PLUGIN_A);
    EXPECT_EQ(process->map_reads(), 1u);
    EXPECT_EQ(process->find(a.code()).kind, CodeKind::kModule);
    EXPECT_EQ(process->map_reads(), 2u);
    a.unmap();
}

TEST(Process, GarbageDoesNotReadTheMapEveryTime) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 20'000; ++i)
        EXPECT_EQ(process->find(RunAddr(0x1234)).kind, CodeKind::kUnmapped);
    auto elapsed = [&] { return std::chrono::steady_clock::now() - begin; };
    const auto of_one_page = process->map_reads();
    EXPECT_LE(of_one_page, 3 + static_cast<uint64_t>(elapsed() / std::chrono::nanoseconds(RefreshBudget::kForget)));

    // Ever new garbage: some reads, until the reserve is gone.
    uint64_t last = 0;
    for (uint64_t page = 0; elapsed() < std::chrono::seconds(2); ++page) {
        process->find(RunAddr(page << 12));
        last = page;
    }
    EXPECT_LT(process->map_reads(), last / 10);
    // And what is mapped by then is still found, if not at once: typed, never wrong.
    const MappedCode a(PLUGIN_A);
    EXPECT_TRUE(soon([&] {
        const CodeLocation location = process->find(a.code());
        EXPECT_TRUE(location.kind == CodeKind::kModule || location.kind == CodeKind::kUnmapped);
        return location.kind == CodeKind::kModule;
    }));
    EXPECT_EQ(module_path(*process, a.code()), PLUGIN_A);
    a.unmap();
}

// dlclose and dlopen at one address. After a refresh the answer is right at once; without one, within the time
// process.h states, and never after it wrong.
TEST(Process, AnotherFileAtTheSameAddress) {
    ModuleStore store;
    const MappedCode a(PLUGIN_A);
    const auto process = open_process(store, ::getpid());
    EXPECT_EQ(module_path(*process, a.code()), PLUGIN_A);
    const MappedCode b(PLUGIN_B, a.address());
    ASSERT_TRUE(process->refresh());
    EXPECT_EQ(module_path(*process, b.code()), PLUGIN_B);

    for (const char *path : {PLUGIN_A, PLUGIN_B, PLUGIN_A}) {
        const MappedCode next(path, a.address());
        ASSERT_TRUE(soon([&] { return module_path(*process, next.code()) == path; })) << path;
        // Once it is right, it stays so.
        for (int i = 0; i < 1000; ++i)
            ASSERT_EQ(module_path(*process, next.code()), path);
    }
    a.unmap();
    EXPECT_TRUE(soon([&] { return process->find(a.code()).kind == CodeKind::kUnmapped; }));
}

TEST(Process, AFileRewrittenInPlace) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    testing::write_file(path, testing::read_file(PLUGIN_A));
    ModuleStore store;
    const MappedCode code(path.c_str());
    const auto process = open_process(store, ::getpid());
    const dwunw_module *before = process->find(code.code()).module;
    ASSERT_NE(before, nullptr);
    EXPECT_EQ(process->find(code.code()).module, before);
    // Longer, too: the clock of the file system may not have gone on.
    testing::write_file(path, testing::read_file(PLUGIN_B) + "and more");
    ASSERT_TRUE(process->refresh());
    const dwunw_module *after = process->find(code.code()).module;
    EXPECT_NE(after, before);
    ASSERT_NE(after, nullptr);
    ASSERT_NE(after->file, nullptr);
    EXPECT_TRUE(after->file->cfi());
    // Without a refresh, too.
    testing::write_file(path, testing::read_file(PLUGIN_A) + "and more still");
    EXPECT_TRUE(soon([&] {
        const dwunw_module *now = process->find(code.code()).module;
        return now != nullptr && now != before && now != after;
    }));
    code.unmap();
}

TEST(Process, AFileTruncatedAfterItWasMapped) {
    const TemporaryFolder folder;
    const std::string path = folder / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    ModuleStore store;
    const MappedCode code(path.c_str());
    const auto process = open_process(store, ::getpid());
    ASSERT_EQ(::truncate(path.c_str(), 100), 0);
    const CodeLocation location = process->find(code.code());
    EXPECT_EQ(location.kind, CodeKind::kUnusableModule);
    EXPECT_EQ(location.status, DWUNW_ERR_ELF_MALFORMED);
    std::array<uint8_t, 8> bytes;
    EXPECT_FALSE(process->read_code(code.code(), bytes));
    code.unmap();
}

TEST(Process, AfterAnExecItIsTheNewProgram) {
    ModuleStore store;
    Child child(become_cat);
    const auto process = open_process(store, child.pid());
    const RunAddr here = address_of(&open_process);
    EXPECT_EQ(process->find(here).kind, CodeKind::kModule);
    make_cat_of(child);
    ASSERT_TRUE(process->refresh());
    EXPECT_EQ(process->find(here).kind, CodeKind::kUnmapped);
    const auto maps = testing::read_file("/proc/" + std::to_string(child.pid()) + "/maps");
    std::istringstream lines(maps);
    size_t found = 0;
    for (std::string line; std::getline(lines, line);)
        if (line.find(" r-xp ") != std::string::npos && line.find("/cat") != std::string::npos) {
            const auto location = process->find(RunAddr(std::stoull(line, nullptr, 16)));
            ASSERT_EQ(location.kind, CodeKind::kModule);
            EXPECT_TRUE(location.module->path.ends_with("/cat"));
            ++found;
        }
    EXPECT_EQ(found, 1u);
}

TEST(Process, AnExecIsNoticedWithoutARefresh) {
    ModuleStore store;
    Child child(become_cat);
    const auto process = open_process(store, child.pid());
    const RunAddr here = address_of(&open_process);
    EXPECT_EQ(process->find(here).kind, CodeKind::kModule);
    make_cat_of(child);
    EXPECT_TRUE(soon([&] { return process->find(here).kind == CodeKind::kUnmapped; }));
}

TEST(Process, AfterItsEndItsStacksCanStillBeWalked) {
    ModuleStore store;
    auto child = std::make_unique<Child>([](const Child::Line &line) { line.hear(); });
    const auto process = open_process(store, child->pid());
    const RunAddr here = address_of(&open_process);
    const RunAddr libc = address_of(&::getpid);
    EXPECT_EQ(process->find(here).kind, CodeKind::kModule);
    child->kill_to_zombie();
    EXPECT_EQ(process->refresh().status(), DWUNW_ERR_NO_PROCESS);
    EXPECT_NE(process->find(here).cfi, nullptr);
    child->reap();
    EXPECT_EQ(process->refresh().status(), DWUNW_ERR_NO_PROCESS);
    EXPECT_NE(process->find(here).cfi, nullptr);
    // A module that was not met before is opened by its path.
    EXPECT_NE(process->find(libc).cfi, nullptr);
    EXPECT_EQ(process->find(RunAddr(0x1234)).kind, CodeKind::kUnmapped);
    std::array<uint8_t, 8> bytes;
    EXPECT_EQ(process->read_memory(here, bytes), 0u);
    EXPECT_TRUE(process->read_code(here, bytes));
    const auto stopped = process->stop();
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().status, DWUNW_ERR_NO_PROCESS);
    const auto reads = process->map_reads();
    for (int i = 0; i < 1000; ++i)
        process->find(RunAddr(static_cast<uint64_t>(i) << 12));
    EXPECT_EQ(process->map_reads(), reads); // there is nothing to read any more
}

TEST(Process, ANumberTakenByAnotherProcessIsNotIt) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    ModuleStore store;
    auto first = std::make_unique<Child>([](const Child::Line &line) { line.hear(); });
    const pid_t pid = first->pid();
    const auto process = open_process(store, pid);
    const RunAddr here = address_of(&open_process);
    EXPECT_EQ(process->find(here).kind, CodeKind::kModule);
    first.reset();
    const MappedCode a(PLUGIN_A); // of the second child only
    Child second([](const Child::Line &line) { line.hear(); }, pid);
    ASSERT_EQ(second.pid(), pid) << std::strerror(second.error());
    EXPECT_EQ(process->refresh().status(), DWUNW_ERR_NO_PROCESS);
    EXPECT_EQ(process->find(a.code()).kind, CodeKind::kUnmapped);
    EXPECT_EQ(process->find(here).kind, CodeKind::kModule);
    std::array<uint8_t, 8> bytes;
    EXPECT_EQ(process->read_memory(here, bytes), 0u);
    EXPECT_EQ(process->stop().error().status, DWUNW_ERR_NO_PROCESS);
    EXPECT_EQ(open_process(store, pid)->find(a.code()).kind, CodeKind::kModule);
    a.unmap();
}

TEST(Process, WithoutAnAddressSpaceItOpensAndHasNoModules) {
    ModuleStore store;
    Child child([](const Child::Line &) {});
    child.wait_for_zombie();
    const auto zombie = open_process(store, child.pid());
    ASSERT_NE(zombie, nullptr);
    EXPECT_EQ(zombie->find(address_of(&open_process)).kind, CodeKind::kUnmapped);
    EXPECT_EQ(zombie->refresh().status(), DWUNW_ERR_NO_PROCESS);
    if (::geteuid() != 0 || testing::read_file("/proc/2/comm") != "kthreadd\n")
        GTEST_SKIP() << "skipped: no kernel thread to look at here";
    const auto kthread = open_process(store, 2);
    ASSERT_NE(kthread, nullptr);
    EXPECT_EQ(kthread->find(address_of(&open_process)).kind, CodeKind::kUnmapped);
    EXPECT_TRUE(kthread->refresh());
}

} // namespace
} // namespace dwunw::process
