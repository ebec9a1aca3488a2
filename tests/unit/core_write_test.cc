// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "core/write.h"

#include "core/target.h"
#include "moved_code_testing.h"
#include "process_testing.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/auxv.h>

#include <algorithm>
#include <thread>

namespace dwunw::core {
namespace {

using namespace process; // a core is a process that has ended

Result<std::unique_ptr<Process>> open_core(ModuleStore &store, CoreFile core) {
    const auto target = std::make_shared<const CoreTarget>(std::move(core), "", "");
    return Process::open(store, target, target->maps());
}

// Stays as long as the map is not read again.
const Snapshot &newest(const Process &process) { return *Pin(process); }

using testing::Child;
using testing::TemporaryFolder;

constexpr size_t kRsp = 19;

// What of itself the child tells, in the memory it shares with its parent.
int modified_data = 1; // .data
const int constant_data[] = {1, 2, 3};

// Does not return; its parent kills it.
void stand_still(const Child::Line &line, uint64_t value = 0) {
    line.say(value);
    line.hear();
}

struct Stopped {
    explicit Stopped(pid_t pid)
        : process(testing::take(Process::open(store, pid, std::nullopt))), threads(testing::take(process->stop())) {
        EXPECT_TRUE(process->refresh());
    }
    const Target &memory() const { return *newest(*process).target; }

    ModuleStore store;
    std::unique_ptr<Process> process;
    std::unique_ptr<StoppedThreads> threads;
};

class CoreWrite : public ::testing::Test {
  protected:
    Result<CoreFile> write(Stopped &stopped, uint64_t stack_bytes = 0) {
        const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        if (auto status = write_core(*stopped.process, *stopped.threads, stack_bytes, fd.get()); !status)
            return status.error();
        return CoreFile::parse(std::make_shared<const FileSource>(testing::take(FileSource::open(path_.c_str()))));
    }

    TemporaryFolder folder_;
    std::string path_ = folder_ / "core";
};

uint64_t address_of(const void *pointer) { return reinterpret_cast<uint64_t>(pointer); }

TEST_F(CoreWrite, ThreadsAndNotes) {
    const Child child([](const Child::Line &line) {
        std::thread([&] {
            ::prctl(PR_SET_NAME, "second");
            stand_still(line);
        }).join();
    });
    child.hear();
    Stopped stopped(child.pid());
    const auto core = write(stopped);
    ASSERT_TRUE(core);
    EXPECT_EQ(core->pid(), child.pid());
    EXPECT_EQ(core->name(), ProcDir::open(child.pid())->thread_name(child.pid()));
    ASSERT_EQ(core->threads().size(), 2u);
    EXPECT_EQ(core->threads()[0].tid, child.pid());
    for (size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(core->threads()[i].tid, stopped.threads->threads()[i].tid);
        EXPECT_EQ(core->threads()[i].registers, stopped.threads->threads()[i].registers);
    }
    EXPECT_EQ(core->auxiliary(AT_SYSINFO_EHDR), ::getauxval(AT_SYSINFO_EHDR));
    EXPECT_EQ(core->auxiliary(AT_ENTRY), ::getauxval(AT_ENTRY));

    // The map of the core is the process's, as far as files and code go.
    const CoreTarget target(*core, "", "");
    const Maps maps = target.maps();
    for (const Mapping &mapping : newest(*stopped.process).maps.mappings()) {
        if (mapping.kind == Mapping::Kind::kAnonymous && !mapping.executable)
            continue;
        for (const uint64_t at : {mapping.start.value, mapping.end.value - 1}) {
            const Mapping *found = maps.find(RunAddr(at));
            ASSERT_NE(found, nullptr) << mapping.path;
            EXPECT_EQ(found->kind, mapping.kind) << mapping.path;
            EXPECT_EQ(found->executable, mapping.executable) << mapping.path;
            EXPECT_EQ(found->writable, mapping.writable) << mapping.path;
            if (mapping.kind == Mapping::Kind::kFile) {
                EXPECT_EQ(found->path, mapping.path);
                EXPECT_EQ(found->start.value - found->offset.value, mapping.start.value - mapping.offset.value);
            }
        }
    }
}

// Code that was moved to memory without a file: all of its bytes are the file's, and so the core says, which holds few.
TEST_F(CoreWrite, MovedCodeIsItsFiles) {
    const Child child([](const Child::Line &line) {
        testing::MovableCode code;
        code.move(testing::change_nothing, PROT_READ | PROT_EXEC, 0);
        stand_still(line, address_of(code.function));
    });
    const RunAddr function(child.hear());
    Stopped stopped(child.pid());
    const auto before = stopped.process->find(function);
    ASSERT_EQ(before.kind, unwind::CodeKind::kModule);
    const auto core = write(stopped);
    ASSERT_TRUE(core);
    const auto process = testing::take(open_core(stopped.store, *core));
    const auto after = process->find(function);
    ASSERT_EQ(after.kind, unwind::CodeKind::kModule);
    EXPECT_EQ(after.module, before.module);
    EXPECT_EQ(after.bias.value, before.bias.value);
    std::array<uint8_t, 16> in_file{};
    std::array<uint8_t, 16> in_process{};
    EXPECT_TRUE(process->read_code(function, in_file));
    EXPECT_EQ(stopped.memory().read(function, in_process), in_process.size());
    EXPECT_EQ(in_file, in_process);
}

TEST_F(CoreWrite, EveryByteIsTheProcesss) {
    static std::vector<int> *heap = nullptr;
    const Child child([](const Child::Line &line) {
        modified_data = 12345;
        heap = new std::vector<int>(4 << 20, 5);
        stand_still(line, address_of(heap->data()));
    });
    const uint64_t on_heap = child.hear();
    Stopped stopped(child.pid());
    const auto core = write(stopped);
    ASSERT_TRUE(core);
    uint64_t held = 0;
    for (const auto &segment : core->segments()) {
        std::vector<uint8_t> in_core(segment.file_size);
        std::vector<uint8_t> in_memory(segment.file_size);
        ASSERT_EQ(core->read(segment.start, in_core), in_core.size());
        ASSERT_EQ(stopped.memory().read(segment.start, in_memory), in_memory.size());
        EXPECT_EQ(in_core, in_memory) << std::hex << segment.start.value;
        held += segment.file_size;
    }
    EXPECT_GT(held, 0u);
    EXPECT_LT(held, 16u << 20) << "the heap is left out";

    // What a reader would take from the file, or not have at all.
    std::array<uint8_t, sizeof(int)> bytes;
    ASSERT_EQ(core->read(RunAddr(address_of(&modified_data)), bytes), bytes.size());
    int value;
    std::memcpy(&value, bytes.data(), sizeof(value));
    EXPECT_EQ(value, 12345);
    EXPECT_EQ(core->read(RunAddr(address_of(&constant_data)), bytes), 0u);
    EXPECT_EQ(core->read(RunAddr(address_of(reinterpret_cast<void *>(&::getauxval))), bytes), 0u);
    EXPECT_EQ(core->read(RunAddr(on_heap), bytes), 0u);
    EXPECT_EQ(core->segment_at(RunAddr(on_heap)), nullptr);
    const uint64_t vdso = ::getauxval(AT_SYSINFO_EHDR);
    EXPECT_TRUE(core->holds(RunAddr(vdso), newest(*stopped.process).maps.find(RunAddr(vdso))->end));

    // No page of a private file mapping that is not held differs from the file.
    ModuleStore store;
    const auto reopened = testing::take(open_core(store, *core));
    size_t compared = 0;
    for (const Mapping &mapping : newest(*stopped.process).maps.mappings()) {
        if (mapping.kind != Mapping::Kind::kFile || mapping.shared)
            continue;
        std::vector<uint8_t> in_core(mapping.end - mapping.start);
        std::vector<uint8_t> in_memory(in_core.size());
        in_core.resize(reopened->read_memory(mapping.start, in_core));
        in_memory.resize(stopped.memory().read(mapping.start, in_memory));
        ASSERT_LE(in_core.size(), in_memory.size());
        in_memory.resize(in_core.size());
        EXPECT_TRUE(in_core == in_memory) << mapping.path << " at " << std::hex << mapping.start.value;
        compared += in_core.size();
    }
    EXPECT_GT(compared, 1u << 20);
}

TEST_F(CoreWrite, StackBytesLimitEachStack) {
    const Child child([](const Child::Line &line) {
        std::array<volatile char, 256 << 10> room{};
        room[0] = 1;
        stand_still(line, room[0]);
    });
    child.hear();
    Stopped stopped(child.pid());
    const uint64_t sp = stopped.threads->threads().front().registers[kRsp];
    const RunAddr top = newest(*stopped.process).maps.find(RunAddr(sp))->end;
    const RunAddr bottom(sp - DWUNW_RED_ZONE);
    const auto whole = write(stopped);
    ASSERT_TRUE(whole);
    EXPECT_TRUE(whole->holds(bottom, top));
    for (const uint64_t size : {uint64_t{1}, uint64_t{4096}, uint64_t{100'000}, ~uint64_t{0}}) {
        const auto core = write(stopped, size);
        ASSERT_TRUE(core);
        const uint64_t wanted = std::min(size, top - bottom);
        EXPECT_TRUE(core->holds(bottom, bottom + wanted)) << size;
        if (wanted == size) {
            EXPECT_FALSE(core->holds(bottom, bottom + wanted + 4096)) << size;
        }
    }
}

TEST_F(CoreWrite, CodeWithoutAFile) {
    struct Shared {
        uint64_t deleted;
        uint64_t jit;
    };
    auto *shared = static_cast<Shared *>(
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const std::string plugin = folder_ / "plugin.so";
    std::filesystem::copy_file(PLUGIN_A, plugin);
    const Child child([&](const Child::Line &line) {
        void *const handle = ::dlopen(plugin.c_str(), RTLD_NOW);
        ::unlink(plugin.c_str());
        shared->deleted = address_of(::dlsym(handle, "plugin_value"));
        void *const jit =
            ::mmap(nullptr, 64 << 12, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memset(jit, 0x90, 64 << 12);
        shared->jit = address_of(jit);
        // A return address into it, as a frame of JIT code would have left it.
        volatile uint64_t on_stack = shared->jit + (10 << 12) + 4;
        stand_still(line);
        line.say(on_stack); // it is in use till here
    });
    child.hear();
    Stopped stopped(child.pid());
    const auto core = write(stopped);
    ASSERT_TRUE(core);
    for (const Mapping &mapping : newest(*stopped.process).maps.mappings()) {
        if (mapping.deleted && mapping.path.starts_with(plugin) && !mapping.writable) {
            EXPECT_TRUE(core->holds(mapping.start, mapping.end));
        }
    }
    EXPECT_TRUE(core->holds(RunAddr(shared->deleted), RunAddr(shared->deleted + 16)));
    // The page of the address, and the one before, where the call may begin.
    const RunAddr page(shared->jit + (10 << 12));
    EXPECT_TRUE(core->holds(page - 4096, page + 4096));
    EXPECT_FALSE(core->holds(page + 4096, page + 8192));
    const auto *segment = core->segment_at(page + 8192);
    ASSERT_NE(segment, nullptr) << "it is said to be code";
    EXPECT_TRUE(segment->executable);
    ::munmap(shared, sizeof(Shared));
}

// A private mapping of a file that was truncated: pages behind its end are an error to read.
TEST_F(CoreWrite, MemoryThatCannotBeRead) {
    const std::string path = folder_ / "deleted.so";
    std::filesystem::copy_file(PLUGIN_A, path);
    const Child child([&](const Child::Line &line) {
        const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
        const void *mapped = ::mmap(nullptr, 3 << 12, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
        ::unlink(path.c_str());
        if (::ftruncate(fd, 1 << 12) != 0)
            ::_exit(97);
        stand_still(line, address_of(mapped));
    });
    const RunAddr mapped(child.hear());
    Stopped stopped(child.pid());
    const auto core = write(stopped);
    ASSERT_TRUE(core);
    EXPECT_TRUE(core->holds(mapped, mapped + (1 << 12)));
    EXPECT_FALSE(core->holds(mapped + (1 << 12), mapped + (1 << 12) + 1));
    const auto *segment = core->segment_at(mapped + (2 << 12));
    ASSERT_NE(segment, nullptr);
    EXPECT_EQ(segment->file_size, 0u);
}

TEST_F(CoreWrite, OutputThatFails) {
    const Child child([](const Child::Line &line) { stand_still(line); });
    child.hear();
    Stopped stopped(child.pid());
    const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
    auto status = write_core(*stopped.process, *stopped.threads, 0, full.get());
    EXPECT_EQ(status.status(), DWUNW_ERR_WRITE);
    EXPECT_EQ(status.error().value, static_cast<uint64_t>(ENOSPC));
    status = write_core(*stopped.process, *stopped.threads, 0, -1);
    EXPECT_EQ(status.status(), DWUNW_ERR_WRITE);
    EXPECT_EQ(status.error().value, static_cast<uint64_t>(EBADF));

    // The core is only written sequentially: a pipe suffices.
    ASSERT_TRUE(write(stopped));
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd out(ends[0]);
    std::string received;
    std::thread reader([&] {
        std::array<char, 4096> buffer;
        for (ssize_t got; (got = ::read(out.get(), buffer.data(), buffer.size())) > 0;)
            received.append(buffer.data(), static_cast<size_t>(got));
    });
    {
        const UniqueFd in(ends[1]);
        EXPECT_TRUE(write_core(*stopped.process, *stopped.threads, 0, in.get()));
    }
    reader.join();
    EXPECT_EQ(received, testing::read_file(path_));
}

TEST_F(CoreWrite, ProcessesThatCannotBeWritten) {
    const Child child([](const Child::Line &line) { stand_still(line); });
    child.hear();
    Stopped stopped(child.pid());
    ModuleStore store;
    const auto by_hand = testing::take(Process::open(store, 0, "400000-401000 r-xp 00000000 00:00 0 /x\n"));
    EXPECT_EQ(write_core(*by_hand, *stopped.threads, 0, -1).status(), DWUNW_ERR_INVALID_ARGUMENT);
    child.kill_to_zombie();
    const auto core = write(stopped);
    ASSERT_FALSE(core);
    EXPECT_EQ(core.error().status, DWUNW_ERR_NO_PROCESS);
}

} // namespace
} // namespace dwunw::core
