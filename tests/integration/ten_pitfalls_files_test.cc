// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The sixth and the tenth of the ten pitfalls (ten_pitfalls_test.cc): how a file gets into memory, and facts that were
// true a moment ago. This program loads libraries in each layout that linkers make, calls into them, and walks its own
// stack.
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include "synthetic_process.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <functional>

namespace {

using dwunw::testing::Child;
using dwunw::testing::read_file;
using dwunw::testing::soon;
using dwunw::testing::SyntheticModule;
using dwunw::testing::TemporaryFolder;
using dwunw::testing::write_file;
using enum dwunw::testing::Reg;

class TenPitfallsFiles : public ::testing::Test {
  protected:
    TenPitfallsFiles() {
        EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK);
        process_ = open(::getpid());
    }
    ~TenPitfallsFiles() override {
        dwunw_process_close(process_);
        dwunw_shutdown(context_);
    }
    dwunw_process *open(pid_t pid) {
        const dwunw_process_options options{.size = sizeof(options),
                                            .pid = pid,
                                            .maps = nullptr,
                                            .exe = nullptr,
                                            .sysroot = nullptr,
                                            .maps_error_line = nullptr};
        dwunw_process *process = nullptr;
        EXPECT_EQ(dwunw_process_open(context_, &options, &process), DWUNW_OK);
        return process;
    }

    struct Walk {
        dwunw_status status = DWUNW_OK;
        std::vector<dwunw_frame> frames;
    };
    // From a pc, over a stack that holds `words` from SP on.
    Walk walk(dwunw_process *process, const void *pc, std::vector<uint64_t> words) {
        constexpr uint64_t kSp = 0x7ff000000000;
        words.insert(words.begin(), DWUNW_RED_ZONE / 8, 0);
        dwunw_regset regs{};
        regs.size = sizeof(regs);
        regs.arch = DWUNW_ARCH_X86_64;
        regs.valid = (1u << RSP) | (1u << RIP);
        regs.regs[RSP] = kSp;
        regs.regs[RIP] = reinterpret_cast<uint64_t>(pc);
        return capture(process, regs, kSp - DWUNW_RED_ZONE, words.data(), words.size() * 8);
    }
    Walk capture(dwunw_process *process, const dwunw_regset &regs, uint64_t start, const void *stack, size_t size) {
        Walk result;
        result.frames.resize(64);
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.options = DWUNW_UNWIND_CFI_ONLY;
        request.process = process;
        request.regs = &regs;
        request.stack_addr = start;
        request.stack = stack;
        request.stack_size = size;
        request.frames = result.frames.data();
        request.max_frames = result.frames.size();
        size_t count = 0;
        result.status = dwunw_capture(context_, &request, &count);
        result.frames.resize(count);
        return result;
    }

    // Calls both of the library's functions; each calls back, and from there the stack is walked.
    void expect_walks_through(void *library, const std::string &path) {
        ASSERT_NE(library, nullptr) << ::dlerror();
        // It may be where another one was a moment ago.
        ASSERT_EQ(dwunw_process_refresh(process_), DWUNW_OK);
        for (const char *name : {"pitfall_call", "pitfall_far"}) {
            using Function = int (*)(int (*)(volatile char *));
            const auto function = reinterpret_cast<Function>(::dlsym(library, name));
            ASSERT_NE(function, nullptr);
            seen_ = {};
            walker_ = this;
            EXPECT_EQ(function(&TenPitfallsFiles::walk_from_here), 43);
            ASSERT_EQ(seen_.status, DWUNW_OK) << name;
            // here, the library's function, this one, …
            ASSERT_GT(seen_.frames.size(), 4u) << name;
            const auto start = reinterpret_cast<uint64_t>(function);
            EXPECT_TRUE(seen_.frames[1].pc > start && seen_.frames[1].pc < start + 256) << name;
            ASSERT_NE(seen_.frames[1].module, nullptr);
            EXPECT_EQ(dwunw_module_path(seen_.frames[1].module), path) << name;
            EXPECT_EQ(seen_.frames[2].module, seen_.frames[0].module) << name;
            Dl_info info;
            ASSERT_NE(::dladdr(reinterpret_cast<void *>(start), &info), 0);
            EXPECT_EQ(seen_.frames[1].module_offset, seen_.frames[1].pc - reinterpret_cast<uint64_t>(info.dli_fbase))
                << name;
        }
    }
    [[gnu::noinline]] static int walk_from_here(volatile char *) {
        ucontext_t here;
        ::getcontext(&here);
        const greg_t *from = here.uc_mcontext.gregs;
        dwunw_regset regs{};
        regs.size = sizeof(regs);
        regs.arch = DWUNW_ARCH_X86_64;
        regs.valid = 0x1ffff;
        const int order[] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
                             REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
        for (size_t i = 0; i < std::size(order); ++i)
            regs.regs[i] = static_cast<uint64_t>(from[order[i]]);
        std::vector<uint8_t> stack(65536);
        const uint64_t start = regs.regs[RSP] - DWUNW_RED_ZONE;
        stack.resize(dwunw_process_read_memory(walker_->process_, start, stack.data(), stack.size()));
        walker_->seen_ = walker_->capture(walker_->process_, regs, start, stack.data(), stack.size());
        return 42;
    }

    TemporaryFolder folder_;
    dwunw_context *context_ = nullptr;
    dwunw_process *process_ = nullptr;
    Walk seen_;
    static TenPitfallsFiles *walker_;
};
TenPitfallsFiles *TenPitfallsFiles::walker_ = nullptr;

class Library {
  public:
    explicit Library(const std::string &path) : handle_(::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {}
    ~Library() {
        if (handle_ != nullptr)
            ::dlclose(handle_);
    }
    Library(const Library &) = delete;
    Library &operator=(const Library &) = delete;
    void *handle() const { return handle_; }

  private:
    void *handle_;
};

// 6. How a file gets into memory

TEST_F(TenPitfallsFiles, FilesAsLinkersLayThemOut) {
    for (const char *name : {"gnu", "gnu_one_segment", "gnu_moved", "lld", "lld_no_rosegment", "lld_separate"}) {
        SCOPED_TRACE(name);
        const std::string path = std::string(PITFALL_LIBRARIES "/pitfall_") + name + ".so";
        const Library library(path);
        expect_walks_through(library.handle(), path);
    }
}

TEST_F(TenPitfallsFiles, FilesWithoutSectionHeaders) {
    std::string bytes = read_file(PITFALL_LIBRARIES "/pitfall_lld.so");
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    bytes.resize(header.e_shoff); // the table is the last thing in the file
    header.e_shoff = 0;
    header.e_shnum = header.e_shstrndx = 0;
    std::memcpy(bytes.data(), &header, sizeof(header));
    const std::string path = folder_ / "sectionless.so";
    write_file(path, bytes);
    const Library library(path);
    expect_walks_through(library.handle(), path);
}

TEST_F(TenPitfallsFiles, FilesOfSeveralExecutableSegments) {
    // Two segments, linked far apart and mapped far from where they were linked, each at its own distance in the file.
    const Library library(PITFALL_LIBRARIES "/pitfall_gnu_moved.so");
    ASSERT_NE(library.handle(), nullptr);
    const auto near_code = reinterpret_cast<uint64_t>(::dlsym(library.handle(), "pitfall_call"));
    const auto far_code = reinterpret_cast<uint64_t>(::dlsym(library.handle(), "pitfall_far"));
    EXPECT_GT(std::max(near_code, far_code) - std::min(near_code, far_code), 0x1000000u);
    expect_walks_through(library.handle(), PITFALL_LIBRARIES "/pitfall_gnu_moved.so");
}

TEST_F(TenPitfallsFiles, FilesThatWereDeleted) {
    const std::string path = folder_ / "deleted.so";
    write_file(path, read_file(PITFALL_LIBRARIES "/pitfall_gnu.so"));
    const Library library(path);
    ASSERT_EQ(::unlink(path.c_str()), 0);
    expect_walks_through(library.handle(), path + " (deleted)");
}

TEST_F(TenPitfallsFiles, FilesInMemoryOnly) {
    const int fd = ::memfd_create("pitfall", 0);
    ASSERT_GE(fd, 0);
    const std::string bytes = read_file(PITFALL_LIBRARIES "/pitfall_gnu.so");
    ASSERT_EQ(::write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    const Library library("/proc/self/fd/" + std::to_string(fd));
    expect_walks_through(library.handle(), "/memfd:pitfall (deleted)");
    ::close(fd);
}

TEST_F(TenPitfallsFiles, FilesInMemoryOnlyTheVdso) {
    const auto base = ::getauxval(AT_SYSINFO_EHDR);
    if (base == 0)
        GTEST_SKIP() << "skipped: no vDSO";
    // A function's first byte has its return address at SP.
    const auto *header = reinterpret_cast<const Elf64_Ehdr *>(base);
    const auto *segments = reinterpret_cast<const Elf64_Phdr *>(base + header->e_phoff);
    const Elf64_Dyn *dynamic = nullptr;
    for (size_t i = 0; i < header->e_phnum; ++i)
        if (segments[i].p_type == PT_DYNAMIC)
            dynamic = reinterpret_cast<const Elf64_Dyn *>(base + segments[i].p_offset);
    ASSERT_NE(dynamic, nullptr);
    const Elf64_Sym *symbols = nullptr;
    const char *names = nullptr;
    for (; dynamic->d_tag != DT_NULL; ++dynamic) {
        if (dynamic->d_tag == DT_SYMTAB)
            symbols = reinterpret_cast<const Elf64_Sym *>(base + dynamic->d_un.d_ptr);
        else if (dynamic->d_tag == DT_STRTAB)
            names = reinterpret_cast<const char *>(base + dynamic->d_un.d_ptr);
    }
    ASSERT_TRUE(symbols != nullptr && names != nullptr);
    // The string table follows the symbols in every vDSO there is.
    ASSERT_GT(static_cast<const void *>(names), static_cast<const void *>(symbols));
    size_t functions = 0;
    for (const Elf64_Sym *symbol = symbols + 1; static_cast<const void *>(symbol) < names; ++symbol) {
        if (ELF64_ST_TYPE(symbol->st_info) != STT_FUNC || symbol->st_size == 0)
            continue;
        ++functions;
        const Walk walked = walk(process_, reinterpret_cast<void *>(base + symbol->st_value), {0});
        EXPECT_EQ(walked.status, DWUNW_OK) << names + symbol->st_name;
        ASSERT_EQ(walked.frames.size(), 1u);
        EXPECT_EQ(walked.frames[0].cfa - walked.frames[0].sp, 8u);
        EXPECT_EQ(walked.frames[0].module_offset, symbol->st_value);
        EXPECT_STREQ(dwunw_module_path(walked.frames[0].module), "[vdso]");
    }
    EXPECT_GE(functions, 4u);
}

// 10. What was true a moment ago

// Code whose every function has CFA = rsp + cfa_offset, and the page that it is mapped at.
class CodePage {
  public:
    CodePage(const std::string &path, uint64_t cfa_offset, void *where = nullptr) {
        SyntheticModule module;
        module.function(0x1000, 0x1000, cfa_offset);
        const auto bytes = module.build();
        write_file(path, std::string(bytes.begin(), bytes.end()));
        const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        page_ = ::mmap(where, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | (where != nullptr ? MAP_FIXED : 0), fd,
                       SyntheticModule::kTextOffset);
        ::close(fd);
        EXPECT_NE(page_, MAP_FAILED);
    }
    void *page() const { return page_; }

  private:
    void *page_;
};

TEST_F(TenPitfallsFiles, RacesDlcloseAndReuseOfAnAddress) {
    const CodePage first(folder_ / "first.so", 16);
    const auto cfa = [&](const Walk &walked) {
        return walked.frames.empty() ? 0 : walked.frames[0].cfa - walked.frames[0].sp;
    };
    Walk walked = walk(process_, first.page(), {0, 0, 0, 0});
    ASSERT_EQ(walked.status, DWUNW_OK);
    EXPECT_EQ(cfa(walked), 16u);

    // The map is read: the new rules at once.
    const CodePage second(folder_ / "second.so", 32, first.page());
    ASSERT_EQ(dwunw_process_refresh(process_), DWUNW_OK);
    walked = walk(process_, first.page(), {0, 0, 0, 0});
    EXPECT_EQ(cfa(walked), 32u);

    // No event tells of it: the walk notices soon, and until then uses the old rules or none, never a mixture.
    const CodePage third(folder_ / "third.so", 24, first.page());
    EXPECT_TRUE(soon([&] {
        walked = walk(process_, first.page(), {0, 0, 0, 0});
        EXPECT_TRUE(cfa(walked) == 24 || cfa(walked) == 32 || walked.status == DWUNW_ERR_MODULE_CHANGED);
        return cfa(walked) == 24;
    }));

    // Gone.
    ::munmap(first.page(), 4096);
    ASSERT_EQ(dwunw_process_refresh(process_), DWUNW_OK);
    walked = walk(process_, first.page(), {0, 0, 0, 0});
    EXPECT_EQ(walked.status, DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(walked.frames.size(), 1u);
}

TEST_F(TenPitfallsFiles, RacesForkedProcessesAreTheirOwn) {
    const CodePage page(folder_ / "before.so", 16);
    const std::string other = folder_ / "after.so";
    Child child([&](const Child::Line &line) {
        const CodePage replaced(other, 32, page.page());
        line.say();
        line.hear();
    });
    child.hear();
    dwunw_process *forked = open(child.pid());
    for (int round = 0; round < 3; ++round) {
        const Walk ours = walk(process_, page.page(), {0, 0, 0, 0});
        const Walk theirs = walk(forked, page.page(), {0, 0, 0, 0});
        ASSERT_EQ(ours.status, DWUNW_OK);
        ASSERT_EQ(theirs.status, DWUNW_OK);
        EXPECT_EQ(ours.frames[0].cfa - ours.frames[0].sp, 16u);
        EXPECT_EQ(theirs.frames[0].cfa - theirs.frames[0].sp, 32u);
    }
    dwunw_process_close(forked);
    ::munmap(page.page(), 4096);
}

TEST_F(TenPitfallsFiles, RacesAfterAnExecTheOldMapIsNotUsed) {
    const CodePage page(folder_ / "before.so", 16);
    Child child([](const Child::Line &line) {
        line.hear();
        ::dup2(line.in.get(), STDIN_FILENO);
        ::dup2(line.out.get(), STDOUT_FILENO);
        ::execl("/bin/cat", "cat", nullptr);
    });
    dwunw_process *process = open(child.pid());
    EXPECT_EQ(walk(process, page.page(), {0, 0, 0, 0}).status, DWUNW_OK);
    child.say();
    child.say(1234);
    ASSERT_EQ(child.hear(), 1234u); // cat is all there
    EXPECT_TRUE(soon([&] { return walk(process, page.page(), {0, 0, 0, 0}).status != DWUNW_OK; }));
    const Walk walked = walk(process, page.page(), {0, 0, 0, 0});
    EXPECT_EQ(walked.status, DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(walked.frames.size(), 1u);
    dwunw_process_close(process);
    ::munmap(page.page(), 4096);
}

TEST_F(TenPitfallsFiles, RacesANumberTakenByAnotherProcess) {
    if (const std::string why = dwunw::testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    const CodePage page(folder_ / "before.so", 16);
    auto first = std::make_unique<Child>([](const Child::Line &line) { line.hear(); });
    const pid_t pid = first->pid();
    dwunw_process *process = open(pid);
    first->kill_to_zombie();
    first->reap();
    ::munmap(page.page(), 4096);
    const CodePage other(folder_ / "after.so", 32, page.page());
    const Child second([](const Child::Line &line) { line.hear(); }, pid);
    ASSERT_EQ(second.pid(), pid) << std::strerror(second.error());
    // Its map and memory are not looked at: the old one's last map holds, and there is no memory.
    EXPECT_EQ(dwunw_process_refresh(process), DWUNW_ERR_NO_PROCESS);
    uint64_t word = 0;
    EXPECT_EQ(dwunw_process_read_memory(process, reinterpret_cast<uint64_t>(other.page()), &word, sizeof(word)), 0u);
    const Walk walked = walk(process, page.page(), {0, 0, 0, 0});
    ASSERT_EQ(walked.frames.size(), 1u);
    EXPECT_NE(walked.frames[0].cfa - walked.frames[0].sp, 32u);
    dwunw_process_close(process);
    ::munmap(other.page(), 4096);
}

} // namespace
