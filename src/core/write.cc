// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "core/write.h"

#include "core/contents.h"
#include "core/file.h"
#include "process/file_source.h"
#include "process/os_error.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace dwunw::core {

using process::Binding;
using process::Mapping;
using process::Pin;
using process::ProcDir;
using process::Process;
using process::read_at;
using process::Snapshot;
using process::StoppedThread;
using process::StoppedThreads;
using process::Target;

namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kBufferBytes = 256 << 10;

// A sequential writer. After the first failure it writes nothing.
class Output {
  public:
    explicit Output(int fd) : fd_(fd) { buffer_.reserve(kBufferBytes); }

    void write(std::span<const uint8_t> bytes) {
        while (!bytes.empty() && error_ == 0) {
            const size_t room = std::min(bytes.size(), kBufferBytes - buffer_.size());
            buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(room));
            bytes = bytes.subspan(room);
            offset_ += room;
            if (buffer_.size() == kBufferBytes)
                flush();
        }
    }
    template <typename T> void write_struct(const T &value) {
        write({reinterpret_cast<const uint8_t *>(&value), sizeof(value)});
    }
    void pad_to(uint64_t offset) {
        static constexpr std::array<uint8_t, kPage> kZeroes{};
        while (offset_ < offset && error_ == 0)
            write(std::span(kZeroes).first(std::min<uint64_t>(kPage, offset - offset_)));
    }
    Status finish() {
        flush();
        return error_ == 0 ? Status() : Error{DWUNW_ERR_WRITE, static_cast<uint64_t>(error_)};
    }
    bool failed() const { return error_ != 0; }

  private:
    void flush() {
        for (size_t done = 0; done < buffer_.size() && error_ == 0;) {
            const ssize_t got = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
            if (got > 0)
                done += static_cast<size_t>(got);
            else if (got == 0 || errno != EINTR)
                error_ = got == 0 ? EIO : errno;
        }
        buffer_.clear();
    }

    int fd_;
    std::vector<uint8_t> buffer_;
    uint64_t offset_ = 0;
    int error_ = 0;
};

class Notes {
  public:
    void add(uint32_t type, std::span<const uint8_t> description, const char *name = kCoreNoteName) {
        const size_t name_size = std::strlen(name) + 1;
        const Elf64_Nhdr header{static_cast<uint32_t>(name_size), static_cast<uint32_t>(description.size()), type};
        append({reinterpret_cast<const uint8_t *>(&header), sizeof(header)});
        append({reinterpret_cast<const uint8_t *>(name), name_size});
        append(description);
    }
    template <typename T> void add_struct(uint32_t type, const T &value) {
        add(type, {reinterpret_cast<const uint8_t *>(&value), sizeof(value)});
    }
    const std::vector<uint8_t> &bytes() const { return bytes_; }

  private:
    void append(std::span<const uint8_t> from) {
        bytes_.insert(bytes_.end(), from.begin(), from.end());
        bytes_.resize((bytes_.size() + 3) / 4 * 4);
    }
    std::vector<uint8_t> bytes_;
};

std::string read_text(const ProcDir &directory, const char *name) {
    auto file = directory.open_file(name, O_RDONLY);
    std::string text(64 << 10, '\0');
    if (!file)
        return {};
    text.resize(read_at(file->get(), 0, {reinterpret_cast<uint8_t *>(text.data()), text.size()}));
    return text;
}

// The numbers of a blank-separated text. Text that is not a number counts as 0.
std::vector<int64_t> numbers_of(std::string_view text) {
    std::vector<int64_t> numbers;
    while (!text.empty()) {
        const size_t begin = std::min(text.find_first_not_of(" \t\n"), text.size());
        const size_t end = std::min(text.find_first_of(" \t\n", begin), text.size());
        if (begin == end)
            break;
        int64_t number = 0;
        std::from_chars(text.data() + begin, text.data() + end, number);
        numbers.push_back(number);
        text.remove_prefix(end);
    }
    return numbers;
}

int64_t status_field(std::string_view status, std::string_view name) {
    const size_t at = status.find("\n" + std::string(name) + ":");
    if (at == std::string_view::npos)
        return 0;
    const auto line = status.substr(at + name.size() + 2, status.find('\n', at + 1) - at - name.size() - 2);
    const auto numbers = numbers_of(line);
    return numbers.empty() ? 0 : numbers.front();
}

// proc(5): /proc/PID/stat, status, cmdline.
CorePrPsInfo describe_process(const ProcDir &directory) {
    CorePrPsInfo info{};
    const std::string stat = read_text(directory, "stat");
    const std::string status = read_text(directory, "status");
    info.pid = static_cast<int32_t>(status_field(status, "Tgid"));
    info.uid = static_cast<uint32_t>(status_field(status, "Uid"));
    info.gid = static_cast<uint32_t>(status_field(status, "Gid"));
    // state ppid pgrp session tty tpgid flags, and nice as the 17th. The name before them may contain any byte.
    if (const size_t name_end = stat.rfind(')'); name_end != std::string::npos && name_end + 2 < stat.size()) {
        info.state_letter = stat[name_end + 2];
        auto numbers = numbers_of(std::string_view(stat).substr(name_end + 3));
        numbers.resize(std::max<size_t>(numbers.size(), 16));
        info.parent = static_cast<int32_t>(numbers[0]);
        info.group = static_cast<int32_t>(numbers[1]);
        info.session = static_cast<int32_t>(numbers[2]);
        info.flags = static_cast<uint64_t>(numbers[5]);
        info.nice = static_cast<char>(numbers[15]);
    }
    constexpr std::string_view kStates = "RSDTZW";
    const size_t state = kStates.find(info.state_letter);
    info.state = static_cast<char>(state == std::string_view::npos ? 0 : state);
    info.zombie = info.state_letter == 'Z' ? 1 : 0;
    const std::string name = directory.thread_name(info.pid);
    std::copy_n(name.begin(), std::min(name.size(), info.name.size() - 1), info.name.begin());
    std::string arguments = read_text(directory, "cmdline");
    std::ranges::replace(arguments, '\0', ' ');
    std::copy_n(arguments.begin(), std::min(arguments.size(), info.arguments.size() - 1), info.arguments.begin());
    return info;
}

// Writes moved code as the file's: all of its bytes are the file's, so the core need not hold them.
std::vector<uint8_t> file_note(Process &process, const Snapshot &snapshot) {
    std::vector<uint64_t> head{0, kPage};
    std::string paths;
    for (const Mapping &mapping : snapshot.maps.mappings()) {
        const Binding *moved = process.moved_code(snapshot, mapping);
        if (mapping.kind != Mapping::Kind::kFile && moved == nullptr)
            continue;
        const FileOffset offset = moved != nullptr ? moved->offset : mapping.offset;
        ++head[0];
        head.insert(head.end(), {mapping.start.value, mapping.end.value, offset.value / kPage});
        paths.append(moved != nullptr ? moved->module->path : mapping.path);
        paths.push_back('\0');
    }
    const auto *begin = reinterpret_cast<const uint8_t *>(head.data());
    std::vector<uint8_t> note(begin, begin + head.size() * sizeof(uint64_t));
    note.insert(note.end(), paths.begin(), paths.end());
    return note;
}

// The threads with registers, the main thread first. If there are none, the status of one without.
Result<std::vector<CoreThread>> collect_threads(const StoppedThreads &stopped, pid_t main_thread) {
    std::vector<CoreThread> threads;
    Error none{DWUNW_ERR_NO_PROCESS};
    for (const StoppedThread &thread : stopped.threads()) {
        if (thread.status != DWUNW_OK) {
            none = Error{thread.status};
            continue;
        }
        CoreThread collected;
        collected.tid = thread.tid;
        collected.registers = thread.registers;
        collected.fp_registers = thread.fp_registers;
        threads.push_back(collected);
    }
    if (threads.empty())
        return none;
    std::stable_partition(threads.begin(), threads.end(),
                          [&](const CoreThread &thread) { return thread.tid == main_thread; });
    return threads;
}

Notes make_notes(Process &process, const Snapshot &snapshot, const CorePrPsInfo &info,
                 const std::vector<CoreThread> &threads) {
    Notes notes;
    const ProcDir &directory = *process.directory();
    for (const CoreThread &thread : threads) {
        CorePrStatus status{};
        status.tid = thread.tid;
        status.parent = info.parent;
        status.group = info.group;
        status.session = info.session;
        status.registers = thread.registers;
        const bool has_fp = !thread.fp_registers.empty();
        status.has_fp_registers = has_fp ? 1 : 0;
        notes.add_struct(NT_PRSTATUS, status);
        // In the kernel's order: the process's own notes follow the first thread.
        if (&thread == &threads.front()) {
            notes.add_struct(NT_PRPSINFO, info);
            const std::string auxiliary = read_text(directory, "auxv");
            notes.add(NT_AUXV, {reinterpret_cast<const uint8_t *>(auxiliary.data()), auxiliary.size()});
            notes.add(NT_FILE, file_note(process, snapshot));
        }
        if (has_fp)
            notes.add(NT_FPREGSET, thread.fp_registers);
    }
    return notes;
}

Status write_memory(const Target &memory, const std::vector<CorePiece> &pieces, Output &output) {
    std::vector<uint8_t> buffer(kBufferBytes);
    for (const CorePiece &piece : pieces) {
        if (!piece.held)
            continue;
        for (RunAddr at = piece.start; at < piece.end && !output.failed();) {
            const auto chunk = std::span(buffer).first(std::min<uint64_t>(buffer.size(), piece.end - at));
            // These bytes could be read a moment ago, and the process is stopped: so it was killed.
            if (memory.read(at, chunk) != chunk.size())
                return Error{DWUNW_ERR_NO_PROCESS, at.value};
            output.write(chunk);
            at = at + chunk.size();
        }
    }
    return {};
}

} // namespace

Status write_core(Process &process, const StoppedThreads &stopped, uint64_t stack_bytes, int fd) {
    const ProcDir *directory = process.directory();
    const Pin snapshot(process);
    if (directory == nullptr || snapshot->live == nullptr)
        return Error{DWUNW_ERR_INVALID_ARGUMENT};
    const CorePrPsInfo info = describe_process(*directory);
    const auto threads = collect_threads(stopped, info.pid);
    if (!threads)
        return threads.error();
    const std::vector<CorePiece> pieces = choose_contents(process, *snapshot, *threads, stack_bytes);
    // Killed. Until here, unreadable memory was left out; from here on it is an error.
    if (directory->state() != ProcDir::State::kAlive)
        return Error{DWUNW_ERR_NO_PROCESS};
    const uint64_t count = pieces.size() + 1;
    if (count > kMaxCoreSegments)
        return Error{DWUNW_ERR_LIMIT, count};
    const Notes notes = make_notes(process, *snapshot, info, *threads);
    if (notes.bytes().size() > kMaxCoreNoteBytes)
        return Error{DWUNW_ERR_LIMIT, notes.bytes().size()};

    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_CORE;
    header.e_machine = arch::selected::kArch.machine;
    header.e_version = EV_CURRENT;
    header.e_ehsize = sizeof(Elf64_Ehdr);
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    const bool extended = count >= PN_XNUM;
    header.e_phnum = extended ? PN_XNUM : static_cast<uint16_t>(count);
    uint64_t offset = sizeof(header) + count * sizeof(Elf64_Phdr);
    Elf64_Shdr first_section{};
    if (extended) {
        first_section.sh_info = static_cast<uint32_t>(count);
        header.e_shoff = offset;
        header.e_shentsize = sizeof(Elf64_Shdr);
        header.e_shnum = 1;
        offset += sizeof(Elf64_Shdr);
    }

    Output output(fd);
    output.write_struct(header);
    Elf64_Phdr segment{};
    segment.p_type = PT_NOTE;
    segment.p_offset = offset;
    segment.p_filesz = notes.bytes().size();
    segment.p_align = 4;
    output.write_struct(segment);
    const uint64_t memory_begins = (offset + notes.bytes().size() + kPage - 1) / kPage * kPage;
    offset = memory_begins;
    for (const CorePiece &piece : pieces) {
        segment = {};
        segment.p_type = PT_LOAD;
        segment.p_flags = (piece.mapping->readable ? PF_R : 0) | (piece.mapping->writable ? PF_W : 0) |
                          (piece.mapping->executable ? PF_X : 0);
        segment.p_offset = offset;
        segment.p_vaddr = piece.start.value;
        segment.p_memsz = piece.end - piece.start;
        segment.p_filesz = piece.held ? segment.p_memsz : 0;
        segment.p_align = kPage;
        offset += segment.p_filesz;
        output.write_struct(segment);
    }
    if (extended)
        output.write_struct(first_section);
    output.write(notes.bytes());
    output.pad_to(memory_begins);
    if (auto status = write_memory(*snapshot->live, pieces, output); !status)
        return status;
    return output.finish();
}

} // namespace dwunw::core
