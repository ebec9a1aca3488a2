// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "core/file.h"

#include "base/cursor.h"
#include "core/layout.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace dwunw::core {
namespace {

constexpr size_t kMaxAuxiliary = 1024; // the kernel writes some 25

Error malformed(uint64_t value) { return Error{DWUNW_ERR_ELF_MALFORMED, value}; }

template <typename T> Result<T> read_struct(const ByteSource &source, uint64_t offset) {
    std::array<uint8_t, sizeof(T)> raw;
    if (!source.read_exactly(FileOffset(offset), raw))
        return malformed(offset);
    T value;
    std::memcpy(&value, raw.data(), sizeof(value));
    return value;
}

Result<Elf64_Ehdr> read_header(const ByteSource &source) {
    std::array<uint8_t, EI_NIDENT> identification{};
    const size_t got = source.read(FileOffset(0), identification);
    if (got < SELFMAG || std::memcmp(identification.data(), ELFMAG, SELFMAG) != 0)
        return Error{DWUNW_ERR_NOT_ELF};
    if (got < EI_NIDENT)
        return malformed(got);
    if (identification[EI_CLASS] != ELFCLASS64 || identification[EI_DATA] != ELFDATA2LSB)
        return Error{DWUNW_ERR_UNSUPPORTED_ARCH, identification[EI_CLASS]};
    auto header = read_struct<Elf64_Ehdr>(source, 0);
    if (!header)
        return header;
    if (header->e_type != ET_CORE)
        return Error{DWUNW_ERR_NOT_ELF, header->e_type};
    if (header->e_machine != arch::selected::kArch.machine)
        return Error{DWUNW_ERR_UNSUPPORTED_ARCH, header->e_machine};
    return header;
}

// With more than 65,534 segments, their number is in section header 0 (gABI, PN_XNUM).
Result<uint64_t> segment_count(const ByteSource &source, const Elf64_Ehdr &header) {
    if (header.e_phnum != PN_XNUM)
        return uint64_t{header.e_phnum};
    if (header.e_shoff == 0 || header.e_shentsize != sizeof(Elf64_Shdr))
        return malformed(header.e_shoff);
    auto first = read_struct<Elf64_Shdr>(source, header.e_shoff);
    if (!first)
        return first.error();
    return uint64_t{first->sh_info};
}

Result<std::vector<uint8_t>> read_range(const ByteSource &source, uint64_t offset, uint64_t size) {
    if (offset > source.size() || size > source.size() - offset)
        return malformed(offset);
    std::vector<uint8_t> bytes(size);
    if (!source.read_exactly(FileOffset(offset), bytes))
        return Error{DWUNW_ERR_IO, offset};
    return bytes;
}

} // namespace

Result<CoreFile> CoreFile::parse(std::shared_ptr<const ByteSource> source) {
    const auto header = read_header(*source);
    if (!header)
        return header.error();
    const auto count = segment_count(*source, *header);
    if (!count)
        return count.error();
    if (*count > kMaxCoreSegments)
        return Error{DWUNW_ERR_LIMIT, *count};
    if (header->e_phentsize != sizeof(Elf64_Phdr))
        return malformed(header->e_phentsize);
    const auto table = read_range(*source, header->e_phoff, *count * sizeof(Elf64_Phdr));
    if (!table)
        return table.error();

    CoreFile core;
    core.source_ = std::move(source);
    if (auto status = core.add_segments(*table); !status)
        return status.error();
    uint64_t note_bytes = 0;
    for (uint64_t i = 0; i < *count; ++i) {
        Elf64_Phdr segment;
        std::memcpy(&segment, table->data() + i * sizeof(segment), sizeof(segment));
        if (segment.p_type != PT_NOTE)
            continue;
        if (segment.p_filesz > kMaxCoreNoteBytes - note_bytes)
            return Error{DWUNW_ERR_LIMIT, segment.p_filesz};
        note_bytes += segment.p_filesz;
        const auto notes = read_range(*core.source_, segment.p_offset, segment.p_filesz);
        if (!notes)
            return notes.error();
        if (auto status = core.parse_notes(*notes); !status)
            return status.error();
    }
    if (core.threads_.empty())
        return malformed(0);
    if (core.pid_ == 0)
        core.pid_ = core.threads_.front().tid;
    return core;
}

Status CoreFile::add_segments(std::span<const uint8_t> table) {
    for (size_t at = 0; at < table.size(); at += sizeof(Elf64_Phdr)) {
        Elf64_Phdr raw;
        std::memcpy(&raw, table.data() + at, sizeof(raw));
        if (raw.p_type != PT_LOAD || raw.p_memsz == 0)
            continue;
        if (raw.p_filesz > raw.p_memsz || raw.p_vaddr + raw.p_memsz < raw.p_vaddr ||
            raw.p_offset + raw.p_filesz < raw.p_offset)
            return malformed(raw.p_vaddr);
        segments_.push_back({
            .start = RunAddr(raw.p_vaddr),
            .memory_size = raw.p_memsz,
            .file_size = raw.p_filesz,
            .offset = FileOffset(raw.p_offset),
            .readable = (raw.p_flags & PF_R) != 0,
            .writable = (raw.p_flags & PF_W) != 0,
            .executable = (raw.p_flags & PF_X) != 0,
        });
    }
    std::ranges::sort(segments_, {}, &Segment::start);
    for (size_t i = 1; i < segments_.size(); ++i)
        if (segments_[i].start < segments_[i - 1].end())
            return malformed(segments_[i].start.value);
    return {};
}

// Names and descriptions are padded to four bytes, in 64-bit cores too.
Status CoreFile::parse_notes(std::span<const uint8_t> bytes) {
    Cursor cursor(bytes);
    const auto skip_padding = [&] { cursor.skip(std::min<uint64_t>(-cursor.offset() % 4, cursor.remaining())); };
    while (!cursor.at_end()) {
        const size_t begin = cursor.offset();
        const uint32_t name_size = cursor.u32();
        const uint32_t size = cursor.u32();
        const uint32_t type = cursor.u32();
        const auto name = cursor.take(name_size);
        skip_padding();
        const auto description = cursor.take(size);
        skip_padding();
        if (!cursor.ok())
            return malformed(begin);
        if (name.size() != sizeof(kCoreNoteName) || std::memcmp(name.data(), kCoreNoteName, name.size()) != 0)
            continue;
        if (auto status = parse_note(type, description); !status)
            return status;
    }
    return {};
}

Status CoreFile::parse_note(uint32_t type, std::span<const uint8_t> description) {
    switch (type) {
    case NT_PRSTATUS: {
        CorePrStatus raw;
        if (description.size() != sizeof(raw))
            return malformed(description.size());
        std::memcpy(&raw, description.data(), sizeof(raw));
        threads_.push_back({raw.tid, raw.registers});
        return {};
    }
    case NT_PRPSINFO: {
        CorePrPsInfo raw;
        if (description.size() != sizeof(raw))
            return malformed(description.size());
        std::memcpy(&raw, description.data(), sizeof(raw));
        if (has_process_info_)
            return malformed(type);
        has_process_info_ = true;
        pid_ = raw.pid;
        name_.assign(raw.name.data(), ::strnlen(raw.name.data(), raw.name.size()));
        return {};
    }
    case NT_AUXV: {
        Cursor cursor(description);
        while (cursor.remaining() >= 16 && auxiliary_.size() < kMaxAuxiliary) {
            const uint64_t key = cursor.u64();
            const uint64_t value = cursor.u64();
            if (key == AT_NULL)
                break;
            auxiliary_.emplace_back(key, value);
        }
        return {};
    }
    case NT_FILE:
        return parse_file_note(description);
    default:
        return {};
    }
}

Status CoreFile::parse_file_note(std::span<const uint8_t> description) {
    if (has_files_)
        return malformed(NT_FILE);
    has_files_ = true;
    Cursor entries(description);
    const uint64_t count = entries.u64();
    const uint64_t page_size = entries.u64();
    if (!entries.ok() || count > entries.remaining() / sizeof(CoreFileEntry))
        return malformed(count);
    Cursor paths(description, entries.offset() + count * sizeof(CoreFileEntry));
    files_.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
        const uint64_t start = entries.u64();
        const uint64_t end = entries.u64();
        const uint64_t pages = entries.u64();
        const std::string_view path = paths.c_string();
        uint64_t offset = 0;
        // An offset that exceeds 2^64 cannot belong to a file.
        if (!paths.ok() || start >= end || __builtin_mul_overflow(pages, page_size, &offset) ||
            offset + (end - start) < offset)
            return malformed(start);
        files_.push_back({RunAddr(start), RunAddr(end), FileOffset(offset), std::string(path)});
    }
    std::ranges::sort(files_, {}, &MappedFile::start);
    for (size_t i = 1; i < files_.size(); ++i)
        if (files_[i].start < files_[i - 1].end)
            return malformed(files_[i].start.value);
    return {};
}

std::optional<uint64_t> CoreFile::auxiliary(uint64_t type) const {
    const auto found = std::ranges::find(auxiliary_, type, &std::pair<uint64_t, uint64_t>::first);
    if (found == auxiliary_.end())
        return std::nullopt;
    return found->second;
}

const CoreFile::Segment *CoreFile::segment_at(RunAddr address) const {
    const auto above = std::ranges::upper_bound(segments_, address, {}, &Segment::start);
    if (above == segments_.begin())
        return nullptr;
    const Segment &segment = *std::prev(above);
    return address < segment.end() ? &segment : nullptr;
}

size_t CoreFile::read(RunAddr address, std::span<uint8_t> buffer) const {
    size_t done = 0;
    while (done < buffer.size()) {
        const RunAddr at = address + done;
        const Segment *segment = at >= address ? segment_at(at) : nullptr;
        if (segment == nullptr || at - segment->start >= segment->file_size)
            break;
        const uint64_t within = at - segment->start;
        const auto room = buffer.subspan(done, std::min<uint64_t>(buffer.size() - done, segment->file_size - within));
        const size_t got = source_->read(segment->offset + within, room);
        done += got;
        if (got < room.size())
            break;
    }
    return done;
}

bool CoreFile::holds(RunAddr start, RunAddr end) const {
    for (RunAddr at = start; at < end;) {
        const Segment *segment = segment_at(at);
        if (segment == nullptr || at - segment->start >= segment->file_size ||
            segment->offset.value + segment->file_size > source_->size())
            return false;
        at = segment->start + segment->file_size;
    }
    return true;
}

} // namespace dwunw::core
