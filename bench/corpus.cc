// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "corpus.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>

namespace dwunw_bench {
namespace {

template <typename T> std::optional<T> read_at(std::span<const uint8_t> bytes, uint64_t offset) {
    if (offset > bytes.size() || sizeof(T) > bytes.size() - offset)
        return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
}

std::span<const uint8_t> part(std::span<const uint8_t> bytes, uint64_t offset, uint64_t size) {
    if (offset > bytes.size() || size > bytes.size() - offset)
        return {};
    return bytes.subspan(offset, size);
}

std::span<const uint8_t> map_file(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) != 0 || status.st_size == 0)
        return {};
    void *at = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED)
        return {};
    return {static_cast<const uint8_t *>(at), static_cast<size_t>(status.st_size)};
}

std::vector<Elf64_Phdr> program_headers(std::span<const uint8_t> file) {
    const auto header = read_at<Elf64_Ehdr>(file, 0);
    std::vector<Elf64_Phdr> found;
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_ident[EI_CLASS] != ELFCLASS64)
        return found;
    for (uint64_t i = 0; i < header->e_phnum; ++i)
        if (const auto one = read_at<Elf64_Phdr>(file, header->e_phoff + i * sizeof(Elf64_Phdr)))
            found.push_back(*one);
    return found;
}

struct MappedFile {
    uint64_t start, end, offset;
    std::string path;
};

// The notes of a core that the other unwinders need; dwunw reads the core itself.
struct CoreNotes {
    std::vector<MappedFile> files;
    uint64_t vdso = 0;
};

void read_file_note(std::span<const uint8_t> note, CoreNotes &out) {
    const auto count = read_at<uint64_t>(note, 0);
    const auto page = read_at<uint64_t>(note, 8);
    if (!count || !page || *count > note.size() / 24)
        fail("malformed NT_FILE");
    uint64_t name = 16 + *count * 24;
    for (uint64_t i = 0; i < *count; ++i) {
        const auto words = read_at<std::array<uint64_t, 3>>(note, 16 + i * 24);
        const auto *text = reinterpret_cast<const char *>(note.data()) + name;
        if (!words || name >= note.size())
            fail("malformed NT_FILE");
        out.files.push_back(
            {(*words)[0], (*words)[1], (*words)[2] * *page, {text, ::strnlen(text, note.size() - name)}});
        name += out.files.back().path.size() + 1;
    }
}

CoreNotes read_notes(std::span<const uint8_t> core) {
    CoreNotes found;
    for (const Elf64_Phdr &segment : program_headers(core)) {
        if (segment.p_type != PT_NOTE)
            continue;
        const auto notes = part(core, segment.p_offset, segment.p_filesz);
        for (uint64_t at = 0;;) {
            const auto header = read_at<Elf64_Nhdr>(notes, at);
            if (!header)
                break;
            const uint64_t text = at + sizeof(*header) + (uint64_t{header->n_namesz} + 3) / 4 * 4;
            const auto body = part(notes, text, header->n_descsz);
            if (header->n_type == NT_FILE)
                read_file_note(body, found);
            for (uint64_t i = 0; header->n_type == NT_AUXV && i + 16 <= body.size(); i += 16)
                if (const auto entry = read_at<Elf64_auxv_t>(body, i); entry->a_type == AT_SYSINFO_EHDR)
                    found.vdso = entry->a_un.a_val;
            at = text + (uint64_t{header->n_descsz} + 3) / 4 * 4;
        }
    }
    return found;
}

class Loader {
  public:
    explicit Loader(const CorpusOptions &options) : options_(options) {
        if (dwunw_init(nullptr, &context_) != DWUNW_OK)
            fail("dwunw_init");
    }
    ~Loader() { dwunw_shutdown(context_); }
    Loader(const Loader &) = delete;
    Loader &operator=(const Loader &) = delete;

    Program program(const std::filesystem::path &folder) {
        Program program{.name = folder.filename(), .processes = {}};
        std::vector<std::filesystem::path> cores;
        for (const auto &entry : std::filesystem::directory_iterator(folder))
            cores.push_back(entry.path());
        std::ranges::sort(cores);
        std::map<int32_t, Process *> latest;
        for (const auto &core : cores)
            add_core(core, program, latest);
        thin(program);
        return program;
    }

  private:
    void add_core(const std::string &path, Program &program, std::map<int32_t, Process *> &latest) {
        const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        const auto bytes = map_file(fd);
        const CoreNotes notes = read_notes(bytes);
        dwunw_core_options core_options{};
        core_options.size = sizeof(core_options);
        core_options.path = path.c_str();
        dwunw_core *core = nullptr;
        if (const auto status = dwunw_core_open(context_, &core_options, &core); status != DWUNW_OK)
            fail(path + ": " + dwunw_status_string(status));

        std::vector<MappedModule> modules = mapped_modules(notes, core);
        Process *&process = latest[dwunw_core_pid(core)];
        if (process == nullptr || process->modules != modules) {
            program.processes.push_back(std::make_unique<Process>());
            process = program.processes.back().get();
            process->core = path;
            process->modules = std::move(modules);
        }
        for (size_t i = 0; i < dwunw_core_thread_count(core); ++i) {
            dwunw_thread thread{};
            thread.size = sizeof(thread);
            if (dwunw_core_thread(core, i, &thread) != DWUNW_OK)
                continue;
            Stack stack{.regs = thread.regs, .address = thread.regs.regs[7] - DWUNW_RED_ZONE, .bytes = {}, .name = {}};
            stack.bytes.resize(options_.slice);
            stack.bytes.resize(dwunw_core_read_memory(core, stack.address, stack.bytes.data(), stack.bytes.size()));
            stack.bytes.shrink_to_fit();
            stack.name = path + "/" + std::to_string(thread.tid);
            if (!stack.bytes.empty())
                process->stacks.push_back(std::move(stack));
        }
        dwunw_core_close(core);
        ::munmap(const_cast<uint8_t *>(bytes.data()), bytes.size());
        ::close(fd);
    }

    // Keeps the requested number of stacks, evenly distributed.
    void thin(Program &program) const {
        const size_t all = program.stack_count();
        size_t number = 0;
        for (const auto &process : program.processes)
            std::erase_if(process->stacks, [&](const Stack &) {
                const size_t i = number++;
                return all > options_.stacks && (i + 1) * options_.stacks / all == i * options_.stacks / all;
            });
        std::erase_if(program.processes, [](const auto &process) { return process->stacks.empty(); });
    }

    std::vector<MappedModule> mapped_modules(const CoreNotes &notes, dwunw_core *core) {
        std::vector<MappedModule> found;
        for (size_t i = 0; i < notes.files.size(); ++i) {
            const MappedFile &file = notes.files[i];
            if (i > 0 && notes.files[i - 1].path == file.path && !found.empty() && found.back().module &&
                found.back().module->path() == file.path && file.start < found.back().end)
                continue;
            add_module(open_module(file.path), file.start, file.offset, found);
        }
        if (notes.vdso != 0)
            add_module(vdso(notes.vdso, core), notes.vdso, 0, found);
        std::ranges::sort(found, {}, &MappedModule::start);
        return found;
    }

    static void add_module(const std::shared_ptr<const Module> &module, uint64_t start, uint64_t offset,
                           std::vector<MappedModule> &found) {
        constexpr uint64_t kPage = 4096;
        if (module == nullptr || !module->is_elf() || offset != module->first_offset() / kPage * kPage)
            return;
        const uint64_t bias = start - module->first_vaddr() / kPage * kPage;
        found.push_back({module, bias, start, bias + module->end_vaddr()});
    }

    std::shared_ptr<const Module> open_module(const std::string &path) {
        const auto [at, is_new] = modules_.try_emplace(path);
        if (is_new) {
            struct stat status {};
            const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
            if (fd >= 0 && ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
                at->second = std::make_shared<const Module>(path, fd);
            else if (fd >= 0)
                ::close(fd);
        }
        return at->second;
    }

    std::shared_ptr<const Module> vdso(uint64_t address, dwunw_core *core) {
        if (vdso_ == nullptr) {
            std::vector<uint8_t> bytes(2 * 4096);
            bytes.resize(dwunw_core_read_memory(core, address, bytes.data(), bytes.size()));
            const int fd = ::memfd_create("vdso", MFD_CLOEXEC);
            if (::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
                fail("cannot write a memory file");
            vdso_ = std::make_shared<const Module>("[vdso]", fd);
        }
        return vdso_;
    }

    const CorpusOptions &options_;
    dwunw_context *context_ = nullptr;
    std::map<std::string, std::shared_ptr<const Module>> modules_;
    std::shared_ptr<const Module> vdso_;
};

} // namespace

void fail(const std::string &why) {
    std::fprintf(stderr, "bench: %s\n", why.c_str());
    std::exit(2);
}

Module::Module(std::string path, int fd) : path_(std::move(path)), fd_(fd), bytes_(map_file(fd)) {
    for (const Elf64_Phdr &segment : program_headers(bytes_)) {
        if (segment.p_type == PT_GNU_EH_FRAME)
            eh_frame_hdr_ = segment.p_vaddr;
        if (segment.p_type != PT_LOAD)
            continue;
        segments_.push_back({segment.p_vaddr, segment.p_offset, segment.p_filesz, segment.p_flags});
        end_vaddr_ = std::max(end_vaddr_, segment.p_vaddr + segment.p_memsz);
    }
}

Module::~Module() {
    if (!bytes_.empty())
        ::munmap(const_cast<uint8_t *>(bytes_.data()), bytes_.size());
    ::close(fd_);
}

std::span<const uint8_t> Module::at(uint64_t vaddr) const {
    for (const Segment &segment : segments_)
        if (vaddr - segment.vaddr < segment.file_size)
            return part(bytes_, segment.offset + (vaddr - segment.vaddr), segment.file_size - (vaddr - segment.vaddr));
    return {};
}

std::string Module::map_text(uint64_t bias) const {
    constexpr uint64_t kPageMask = 0xfff;
    struct stat status {};
    ::fstat(fd_, &status);
    std::string text;
    for (const Segment &segment : segments_) {
        std::array<char, 128> line{};
        const uint64_t start = bias + (segment.vaddr & ~kPageMask);
        const uint64_t end = (bias + segment.vaddr + segment.file_size + kPageMask) & ~kPageMask;
        std::snprintf(line.data(), line.size(), "%lx-%lx r%c%cp %lx %02x:%02x %lu ", start, end,
                      (segment.flags & PF_W) != 0 ? 'w' : '-', (segment.flags & PF_X) != 0 ? 'x' : '-',
                      segment.offset & ~kPageMask, major(status.st_dev), minor(status.st_dev), status.st_ino);
        text += line.data() + path_ + "\n";
    }
    return text;
}

const MappedModule *Process::find(uint64_t address) const {
    const auto after = std::ranges::upper_bound(modules, address, {}, &MappedModule::start);
    if (after == modules.begin() || address >= std::prev(after)->end)
        return nullptr;
    return &*std::prev(after);
}

size_t Program::stack_count() const {
    size_t count = 0;
    for (const auto &process : processes)
        count += process->stacks.size();
    return count;
}

std::vector<Program> load_corpus(const CorpusOptions &options) {
    std::vector<std::filesystem::path> folders;
    for (const auto &entry : std::filesystem::directory_iterator(options.folder)) {
        const std::string name = entry.path().filename();
        if (entry.is_directory() && !name.starts_with('.') && (options.only.empty() || options.only == name))
            folders.push_back(entry.path());
    }
    std::ranges::sort(folders);
    Loader loader(options);
    std::vector<Program> programs;
    programs.reserve(folders.size());
    for (const auto &folder : folders)
        programs.push_back(loader.program(folder));
    if (programs.empty())
        fail("no cores in " + options.folder.string() + ": run bench/collect.py");
    return programs;
}

} // namespace dwunw_bench
