// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/process.h"

#include "process_testing.h"
#include "support/opened_process.h"

#include <dlfcn.h>
#include <sys/auxv.h>

#include <atomic>
#include <new>
#include <thread>

namespace {
std::atomic<size_t> allocations = 0;
}

// Counts allocations, so that a test can see that there are none.
[[gnu::noinline]] void *operator new(size_t size) {
    ++allocations;
    if (void *memory = std::malloc(size))
        return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void *operator new(size_t size, const std::nothrow_t &) noexcept {
    ++allocations;
    return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void *memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void *memory, size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void *memory, const std::nothrow_t &) noexcept { std::free(memory); }

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

TEST(Process, ItsOwnCode) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    const auto here = address_of(&open_process);
    const CodeLocation location = process->find(here);
    EXPECT_EQ(process->map_reads(), 1u);
    EXPECT_EQ(location.kind, CodeKind::kModule);
    EXPECT_EQ(location.status, DWUNW_OK);
    ASSERT_NE(location.cfi, nullptr);
    EXPECT_EQ(location.module->path, std::filesystem::read_symlink("/proc/self/exe").string());
    EXPECT_TRUE(here >= location.start && here < location.end);
    EXPECT_EQ(location.cfi->rule_at(location.bias.link(here)).status, DWUNW_OK);

    // Any function of libc: its link address is the symbol's value.
    Dl_info info;
    ASSERT_NE(::dladdr(reinterpret_cast<void *>(&::getpid), &info), 0);
    const auto libc = process->find(address_of(&::getpid));
    ASSERT_EQ(libc.kind, CodeKind::kModule);
    EXPECT_EQ(libc.bias.link(address_of(&::getpid)).value,
              reinterpret_cast<uint64_t>(&::getpid) - reinterpret_cast<uint64_t>(info.dli_fbase));
    EXPECT_EQ(process->modules_failed(), 0u);
}

TEST(Process, TheVdsoIsOneModuleForAll) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    const RunAddr vdso(::getauxval(AT_SYSINFO_EHDR));
    const CodeLocation location = process->find(vdso + 0x800);
    EXPECT_EQ(location.kind, CodeKind::kModule);
    EXPECT_NE(location.cfi, nullptr);
    EXPECT_EQ(location.module->path, "[vdso]");
    EXPECT_EQ(location.bias.run(LinkAddr(0)), vdso);
    // One vDSO for all processes.
    Child child([](const Child::Line &line) { line.hear(); });
    EXPECT_EQ(open_process(store, child.pid())->find(vdso + 0x800).module, location.module);
}

TEST(Process, CodeWhoseTextIsNotAtItsFileOffset) {
    ModuleStore store;
    const MappedCode moved(PLUGIN_MOVED);
    const auto process = open_process(store, ::getpid());
    const CodeLocation location = process->find(moved.code());
    ASSERT_EQ(location.kind, CodeKind::kModule);
    EXPECT_EQ(location.bias.link(moved.code()), moved.link());
    EXPECT_GE(moved.link().value, 0x5000000u);
    std::array<uint8_t, 16> code;
    ASSERT_TRUE(process->read_code(moved.code(), code));
    EXPECT_EQ(std::memcmp(code.data(), reinterpret_cast<void *>(moved.code().value), code.size()), 0);
    moved.unmap();
}

TEST(Process, CodeBytesAreTheFilesAndEndWithTheMapping) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    const RunAddr here = address_of(&open_process);
    std::array<uint8_t, 16> code;
    ASSERT_TRUE(process->read_code(here, code));
    EXPECT_EQ(std::memcmp(code.data(), reinterpret_cast<void *>(here.value), code.size()), 0);
    const CodeLocation location = process->find(here);
    EXPECT_FALSE(process->read_code(location.end - 8, code));
    EXPECT_FALSE(process->read_code(location.end - 8, std::span(code).first(9)));
    EXPECT_FALSE(process->read_code(RunAddr(8), code));
    EXPECT_FALSE(process->read_code(address_of(code.data()), code)); // the stack is no code
}

TEST(Process, CodeWithoutAFile) {
    ModuleStore store;
    const size_t page = testing::page_size();
    auto *anonymous = static_cast<uint8_t *>(
        ::mmap(nullptr, page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    anonymous[0] = 0xc3;
    const UniqueFd memfd(::memfd_create("jit", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(memfd.get(), static_cast<off_t>(page)), 0);
    auto *jit =
        static_cast<uint8_t *>(::mmap(nullptr, page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, memfd.get(), 0));
    jit[0] = 0xcc;
    const auto process = open_process(store, ::getpid());
    for (uint8_t *code : {anonymous, jit}) {
        const CodeLocation location = process->find(address_of(code));
        EXPECT_EQ(location.kind, CodeKind::kAnonymous);
        EXPECT_EQ(location.status, DWUNW_ERR_NO_CFI);
        EXPECT_EQ(location.cfi, nullptr);
        uint8_t byte = 0;
        EXPECT_TRUE(process->read_code(address_of(code), {&byte, 1}));
        EXPECT_EQ(byte, code[0]);
    }
    EXPECT_EQ(process->modules_failed(), 0u);
    ::munmap(anonymous, page);
    ::munmap(jit, page);
}

TEST(Process, AMappedFileThatIsNotUsableElf) {
    const TemporaryFolder folder;
    const size_t page = testing::page_size();
    testing::write_file(folder / "text", std::string(page, 'x'));
    // The header of an ELF file and nothing of what it promises.
    testing::write_file(folder / "broken", testing::read_file(PLUGIN_A).substr(0, 100) + std::string(page, '\xff'));
    ModuleStore store;
    auto map = [&](const char *name) {
        const UniqueFd fd(::open((folder / name).c_str(), O_RDONLY | O_CLOEXEC));
        return ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd.get(), 0);
    };
    void *text = map("text");
    void *text_again = map("text");
    void *broken = map("broken");
    const auto process = open_process(store, ::getpid());
    const CodeLocation of_text = process->find(address_of(text));
    EXPECT_EQ(of_text.kind, CodeKind::kUnusableModule);
    EXPECT_EQ(of_text.status, DWUNW_ERR_NOT_ELF);
    ASSERT_NE(of_text.module, nullptr); // so that a message can name it
    EXPECT_EQ(of_text.module->path, folder / "text");
    EXPECT_EQ(of_text.module->file, nullptr);
    EXPECT_EQ(process->find(address_of(text_again)).kind, CodeKind::kUnusableModule);
    const CodeLocation of_broken = process->find(address_of(broken));
    EXPECT_EQ(of_broken.kind, CodeKind::kUnusableModule);
    EXPECT_EQ(of_broken.status, DWUNW_ERR_ELF_MALFORMED);
    EXPECT_EQ(process->modules_failed(), 2u);
    const auto module = process->find_module(address_of(text));
    ASSERT_FALSE(module);
    EXPECT_EQ(module.error().status, DWUNW_ERR_NOT_ELF);
    for (void *address : {text, text_again, broken})
        ::munmap(address, page);
}

// Found in use: SBCL's heap image, .NET's and wine's PE files hold code that keeps frame pointers. What is known of it
// is its bytes, which are the process's memory.
TEST(Process, TheBytesOfCodeInAFileThatIsNotElf) {
    const TemporaryFolder folder;
    const size_t page = testing::page_size();
    testing::write_file(folder / "image", std::string(page, 'x') + "\x55\x48\x89\xe5" + std::string(page, 'y'));
    const UniqueFd fd(::open((folder / "image").c_str(), O_RDONLY | O_CLOEXEC));
    void *code = ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd.get(), static_cast<off_t>(page));
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    std::array<uint8_t, 4> bytes{};
    EXPECT_TRUE(process->read_code(address_of(code), bytes));
    EXPECT_EQ(bytes, (std::array<uint8_t, 4>{0x55, 0x48, 0x89, 0xe5}));
    EXPECT_FALSE(process->read_code(address_of(code) + page - 2, bytes)) << "over the mapping's end";

    // A map without a process has the file alone.
    std::array<char, 64> line{};
    std::snprintf(line.data(), line.size(), "10000000-10001000 r-xp %08zx 00:00 0 ", page);
    const auto text = testing::take(Process::open(store, 0, line.data() + (folder / "image")));
    const CodeLocation location = text->find(RunAddr(0x10000000));
    EXPECT_EQ(location.kind, CodeKind::kUnusableModule);
    EXPECT_EQ(location.status, DWUNW_ERR_NOT_ELF);
    bytes = {};
    EXPECT_TRUE(text->read_code(RunAddr(0x10000000), bytes));
    EXPECT_EQ(bytes, (std::array<uint8_t, 4>{0x55, 0x48, 0x89, 0xe5}));
    ::munmap(code, page);
}

// A program with a heap image behind it: an ELF file, and none of its segments is for that.
TEST(Process, TheBytesOfCodeBehindAnElfFilesSegments) {
    const TemporaryFolder folder;
    const size_t page = testing::page_size();
    std::string program = testing::read_file(PLUGIN_A);
    program.resize((program.size() + page - 1) & ~(page - 1));
    const size_t end = program.size();
    testing::write_file(folder / "program", program + "\x55\x48\x89\xe5" + std::string(page, 'y'));
    const UniqueFd fd(::open((folder / "program").c_str(), O_RDONLY | O_CLOEXEC));
    void *code = ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd.get(), static_cast<off_t>(end));
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    EXPECT_EQ(process->find(address_of(code)).status, DWUNW_ERR_ELF_MALFORMED);
    std::array<uint8_t, 4> bytes{};
    EXPECT_TRUE(process->read_code(address_of(code), bytes));
    EXPECT_EQ(bytes, (std::array<uint8_t, 4>{0x55, 0x48, 0x89, 0xe5}));
    ::munmap(code, page);
}

// It was called unmapped.
TEST(Process, MappedMemoryThatIsNotExecutable) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    int local = 0;
    static const int kConstant = 5;
    for (const RunAddr address : {address_of(&local), address_of(&kConstant)}) {
        EXPECT_EQ(process->find(address).kind, CodeKind::kUnmapped);
        EXPECT_EQ(process->find(address).status, DWUNW_ERR_NOT_EXECUTABLE);
    }
    EXPECT_EQ(process->find(RunAddr(16)).status, DWUNW_ERR_NO_MAPPING);
}

TEST(Process, ModulesOfDataAddresses) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    static const int kConstant = 5;
    const auto found = process->find_module(address_of(&kConstant));
    ASSERT_TRUE(found);
    const auto code = process->find(address_of(&open_process));
    EXPECT_EQ(found->module, code.module);
    EXPECT_EQ(found->address, code.bias.link(address_of(&kConstant)));
    EXPECT_EQ(process->find(address_of(&kConstant)).kind, CodeKind::kUnmapped); // but no code
    int local = 0;
    EXPECT_EQ(process->find_module(address_of(&local)).error().status, DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(process->find_module(RunAddr(16)).error().status, DWUNW_ERR_NO_MAPPING);
}

TEST(Process, OpenErrorsAreTyped) {
    ModuleStore store;
    EXPECT_EQ(Process::open(store, 0, std::nullopt).error().status, DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(Process::open(store, -1, std::nullopt).error().status, DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(Process::open(store, std::numeric_limits<pid_t>::max(), std::nullopt).error().status,
              DWUNW_ERR_NO_PROCESS);
    const auto malformed = Process::open(store, 0, "1000-2000 r-xp 00000000 00:00 0 \nnonsense\n");
    ASSERT_FALSE(malformed);
    EXPECT_EQ(malformed.error().status, DWUNW_ERR_MAPS_MALFORMED);
    EXPECT_EQ(malformed.error().value, 2u);
}

TEST(Process, AMapFromATextDoesNotChange) {
    ModuleStore store;
    const std::string text = "10000000-10100000 r-xp 00001000 00:00 0 " PLUGIN_A "\n"
                             "20000000-20001000 r-xp 00000000 00:00 0 /no/such/file\n"
                             "30000000-30001000 r-xp 00000000 00:00 0 \n"
                             "40000000-40001000 r-xp 00000000 00:00 0 [vdso]\n"
                             "50000000-50001000 --xp 00000000 00:00 0 [uprobes]\n"
                             "ff000010000000-ff000010100000 r-xp 00001000 00:00 0 " PLUGIN_A "\n"
                             "ffffffffffe000-fffffffffff000 --xp 00000000 00:00 0 [uprobes]\n"; // 5-level paging
    auto opened = Process::open(store, 0, text);
    ASSERT_TRUE(opened);
    Process &process = **opened;
    const auto a = process.find(RunAddr(0x10000010));
    EXPECT_EQ(a.kind, CodeKind::kModule);
    EXPECT_EQ(a.bias.link(RunAddr(0x10000010)), LinkAddr(0x1010));
    EXPECT_EQ(process.find(RunAddr(0x20000000)).status, DWUNW_ERR_NO_FILE);
    EXPECT_EQ(process.find(RunAddr(0x30000000)).kind, CodeKind::kAnonymous);
    EXPECT_EQ(process.find(RunAddr(0x40000000)).kind, CodeKind::kUnusableModule);
    EXPECT_EQ(process.find(RunAddr(0x50000000)).kind, CodeKind::kUprobeTrampoline);
    EXPECT_EQ(process.find(RunAddr(0xffffffffffe000)).kind, CodeKind::kUprobeTrampoline);
    EXPECT_EQ(process.find(RunAddr(0xff000010000010)).module, a.module);
    EXPECT_EQ(process.find(RunAddr(0xff000010000010)).bias.link(RunAddr(0xff000010000010)), LinkAddr(0x1010));
    EXPECT_EQ(process.code_mappings().mappings.size(), 7u);
    EXPECT_EQ(process.find(RunAddr(0x60000000)).kind, CodeKind::kUnmapped);
    EXPECT_TRUE(process.refresh());
    EXPECT_EQ(process.map_reads(), 0u);
    std::array<uint8_t, 8> bytes;
    EXPECT_FALSE(process.read_code(RunAddr(0x30000000), bytes));
    EXPECT_EQ(process.read_memory(RunAddr(0x30000000), bytes), 0u);
    EXPECT_EQ(process.stop().error().status, DWUNW_ERR_INVALID_ARGUMENT);
}

// A map from another machine, whose inodes are that one's.
TEST(Process, WhereTheFilesOfATextAre) {
    const TemporaryFolder folder;
    std::filesystem::create_directories(folder / "root/usr/lib");
    std::filesystem::copy_file(PLUGIN_B, folder / "root/usr/lib/plugin.so");
    const std::string text = "10000000-10001000 r--p 00000000 08:01 77 /usr/bin/program\n"
                             "10001000-10002000 r-xp 00001000 08:01 77 /usr/bin/program\n"
                             "20000000-20001000 r--p 00000000 08:01 78 /usr/lib/plugin.so\n";
    ModuleStore store;
    const auto nowhere = testing::take(Process::open(store, 0, text));
    EXPECT_EQ(nowhere->find(RunAddr(0x10001010)).status, DWUNW_ERR_NO_FILE);

    const auto process = testing::take(Process::open(store, 0, text, {PLUGIN_A, folder / "root"}));
    const CodeLocation program = process->find(RunAddr(0x10001010));
    ASSERT_EQ(program.kind, CodeKind::kModule);
    EXPECT_EQ(program.module->path, "/usr/bin/program") << "as the map calls it";
    EXPECT_EQ(program.bias.link(RunAddr(0x10001010)), LinkAddr(0x1010));
    const auto library = process->find_module(RunAddr(0x20000010));
    ASSERT_TRUE(library);
    EXPECT_EQ(library->module->file->source().size(), std::filesystem::file_size(PLUGIN_B));
    EXPECT_EQ(program.module->file->source().size(), std::filesystem::file_size(PLUGIN_A));

    const auto library_alone = testing::take(Process::open(store, 0, text, {"", folder / "root"}));
    EXPECT_EQ(library_alone->find(RunAddr(0x10001010)).status, DWUNW_ERR_NO_FILE);
    EXPECT_TRUE(library_alone->find_module(RunAddr(0x20000010)));
    // A process's files are where the process has them.
    EXPECT_EQ(Process::open(store, ::getpid(), std::nullopt, {PLUGIN_A, ""}).error().status,
              DWUNW_ERR_INVALID_ARGUMENT);
}

TEST(Process, TheWarmPathAllocatesNothing) {
    ModuleStore store;
    const auto process = open_process(store, ::getpid());
    const RunAddr here = address_of(&open_process);
    const RunAddr libc = address_of(&::getpid);
    std::array<uint8_t, 8> bytes;
    auto walk = [&] {
        View view(*process);
        for (int i = 0; i < 100; ++i) {
            EXPECT_NE(view.find(here).cfi, nullptr);
            EXPECT_NE(view.find(libc).cfi, nullptr);
            EXPECT_TRUE(view.read_code(here, bytes));
        }
    };
    walk();
    // On a kernel before Linux 6.11, one that is interrupted for long reads the map again.
    EXPECT_TRUE(soon([&] {
        const size_t before = allocations;
        walk();
        process->find(here);
        return allocations == before;
    }));
}

TEST(Process, ThreeThousandMappings) {
    ModuleStore store;
    constexpr size_t kCount = 3000;
    const size_t page = testing::page_size();
    auto *base =
        static_cast<uint8_t *>(::mmap(nullptr, 2 * kCount * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < kCount; ++i)
        ::mprotect(base + 2 * i * page, page, PROT_READ | PROT_EXEC);
    const auto process = open_process(store, ::getpid());
    View view(*process);
    for (size_t i = 0; i < kCount; ++i)
        ASSERT_EQ(view.find(address_of(base + 2 * i * page)).kind, CodeKind::kAnonymous);
    ::munmap(base, 2 * kCount * page);
}

// Threads look up while mappings come and go under them: every answer is one of the two files or nothing.
TEST(Process, ManyThreadsWhileTheMapChanges) {
    ModuleStore store;
    const MappedCode first(PLUGIN_A);
    const auto process = open_process(store, ::getpid());
    std::atomic<bool> stop = false;
    std::atomic<size_t> a_seen = 0;
    std::atomic<size_t> b_seen = 0;
    std::atomic<size_t> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            while (!stop) {
                View view(*process);
                const CodeLocation location = view.find(first.code());
                if (location.kind == CodeKind::kModule && location.module->path == PLUGIN_A)
                    ++a_seen;
                else if (location.kind == CodeKind::kModule && location.module->path == PLUGIN_B)
                    ++b_seen;
                else if (location.kind == CodeKind::kModule)
                    ++wrong;
                view.find(address_of(&open_process));
                std::array<uint8_t, 4> bytes;
                view.read_code(first.code(), bytes);
            }
        });
    for (int i = 0; i < 300 || a_seen < 100 || b_seen < 100; ++i) {
        const MappedCode code(i % 2 == 0 ? PLUGIN_B : PLUGIN_A, first.address());
        if (i % 5 == 0)
            code.reserve();
        if (i % 3 == 0) {
            EXPECT_TRUE(process->refresh());
        }
        if (i == 1'000'000) {
            ADD_FAILURE() << a_seen << " and " << b_seen << " seen";
            break;
        }
    }
    stop = true;
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(wrong, 0u);
    first.unmap();
}

} // namespace
} // namespace dwunw::process
