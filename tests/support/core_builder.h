// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Builds small core files in memory, in the kernel's layout.
#pragma once

#include "base/byte_source.h"
#include "core/layout.h"
#include "support/elf_builder.h"

#include <string>
#include <utility>
#include <vector>

namespace dwunw::testing {

class CoreBuilder {
  public:
    struct Segment {
        uint64_t address;
        uint64_t memory_size;
        uint32_t flags;
        std::vector<uint8_t> bytes; // fewer than memory_size: the core leaves the rest out
    };
    struct File {
        uint64_t start;
        uint64_t end;
        uint64_t page;
        std::string path;
    };

    CoreBuilder() {
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_ident[EI_VERSION] = EV_CURRENT;
        header.e_type = ET_CORE;
        header.e_machine = EM_X86_64;
        header.e_version = EV_CURRENT;
        header.e_ehsize = sizeof(Elf64_Ehdr);
        header.e_phentsize = sizeof(Elf64_Phdr);
    }

    CoreBuilder &add_note(uint32_t type, const std::vector<uint8_t> &description, const char *name = "CORE") {
        const std::vector<uint8_t> bytes = note(name, type, description);
        notes.insert(notes.end(), bytes.begin(), bytes.end());
        return *this;
    }
    template <typename T> static std::vector<uint8_t> bytes_of(const T &value) {
        const auto *bytes = reinterpret_cast<const uint8_t *>(&value);
        return {bytes, bytes + sizeof(value)};
    }
    // Registers hold their position plus tid × 1000.
    CoreBuilder &add_thread(int32_t tid) {
        core::CorePrStatus status{};
        status.tid = tid;
        for (size_t i = 0; i < status.registers.size(); ++i)
            status.registers[i] = static_cast<uint64_t>(tid) * 1000 + i;
        return add_note(NT_PRSTATUS, bytes_of(status));
    }
    CoreBuilder &add_process(int32_t pid, const std::string &name) {
        core::CorePrPsInfo info{};
        info.pid = pid;
        std::copy_n(name.begin(), std::min(name.size(), info.name.size()), info.name.begin());
        return add_note(NT_PRPSINFO, bytes_of(info));
    }
    CoreBuilder &add_auxiliary(const std::vector<std::pair<uint64_t, uint64_t>> &pairs) {
        std::vector<uint8_t> bytes;
        for (const auto &[key, value] : pairs)
            for (const uint64_t word : {key, value})
                append(bytes, word);
        return add_note(NT_AUXV, bytes);
    }
    CoreBuilder &add_files(const std::vector<File> &files, uint64_t page_size = 4096) {
        return add_note(NT_FILE, file_note(files, page_size));
    }
    static std::vector<uint8_t> file_note(const std::vector<File> &files, uint64_t page_size = 4096) {
        std::vector<uint8_t> bytes;
        append(bytes, files.size());
        append(bytes, page_size);
        for (const File &file : files)
            for (const uint64_t word : {file.start, file.end, file.page})
                append(bytes, word);
        for (const File &file : files)
            bytes.insert(bytes.end(), file.path.c_str(), file.path.c_str() + file.path.size() + 1);
        return bytes;
    }
    CoreBuilder &add(Segment segment) {
        segments.push_back(std::move(segment));
        return *this;
    }

    // Header, program headers (the notes' first), notes, memory.
    std::vector<uint8_t> build() {
        const size_t count = segments.size() + 1;
        std::vector<uint8_t> file(sizeof(header) + count * sizeof(Elf64_Phdr) + sizeof(Elf64_Shdr));
        header.e_phoff = sizeof(header);
        header.e_phnum = static_cast<uint16_t>(count < PN_XNUM ? count : PN_XNUM);
        if (count >= PN_XNUM) {
            header.e_shoff = file.size() - sizeof(Elf64_Shdr);
            header.e_shentsize = sizeof(Elf64_Shdr);
            Elf64_Shdr first{};
            first.sh_info = static_cast<uint32_t>(count);
            std::memcpy(file.data() + header.e_shoff, &first, sizeof(first));
        }
        std::memcpy(file.data(), &header, sizeof(header));
        Elf64_Phdr entry{};
        entry.p_type = PT_NOTE;
        entry.p_offset = file.size();
        entry.p_filesz = notes.size();
        std::memcpy(file.data() + sizeof(header), &entry, sizeof(entry));
        file.insert(file.end(), notes.begin(), notes.end());
        notes_end = file.size();
        for (size_t i = 0; i < segments.size(); ++i) {
            const Segment &segment = segments[i];
            entry = {};
            entry.p_type = PT_LOAD;
            entry.p_flags = segment.flags;
            entry.p_offset = file.size();
            entry.p_vaddr = segment.address;
            entry.p_filesz = segment.bytes.size();
            entry.p_memsz = segment.memory_size;
            std::memcpy(file.data() + sizeof(header) + (i + 1) * sizeof(entry), &entry, sizeof(entry));
            file.insert(file.end(), segment.bytes.begin(), segment.bytes.end());
        }
        return file;
    }

    Elf64_Ehdr header{};
    std::vector<uint8_t> notes;
    std::vector<Segment> segments;
    size_t notes_end = 0; // of the last build(): the offset where the memory begins

  private:
    static void append(std::vector<uint8_t> &bytes, uint64_t word) {
        for (int i = 0; i < 8; ++i)
            bytes.push_back(static_cast<uint8_t>(word >> (8 * i)));
    }
};

// Bytes that own themselves.
class OwnedSource final : public ByteSource {
  public:
    explicit OwnedSource(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}
    uint64_t size() const override { return bytes_.size(); }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
        return MemorySource(bytes_).read(offset, buffer);
    }

  private:
    std::vector<uint8_t> bytes_;
};

} // namespace dwunw::testing
