// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "elf/image.h"

#include "base/cursor.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <limits>

namespace dwunw::elf {
namespace {

constexpr Error kMalformed{DWUNW_ERR_ELF_MALFORMED};

// Section name tables and notes are small. These limits bound what hostile headers can make the parser read. The limit
// for notes holds for all notes of a file together, because a million headers can name the same megabyte.
constexpr uint64_t kMaxNamesBytes = 16 << 20;
constexpr uint64_t kMaxNoteBytes = 1 << 20;
constexpr size_t kMaxBuildIdBytes = 64;
constexpr std::string_view kEhFrame = ".eh_frame";

bool in_source(const ByteSource &source, FileOffset offset, uint64_t size) {
    return offset.value <= source.size() && size <= source.size() - offset.value;
}

Result<std::vector<uint8_t>> read_range(const ByteSource &source, FileOffset offset, uint64_t size, uint64_t limit) {
    if (size > limit)
        return Error{DWUNW_ERR_LIMIT, size};
    if (!in_source(source, offset, size))
        return Error{DWUNW_ERR_ELF_MALFORMED, offset.value};
    std::vector<uint8_t> bytes(size);
    if (!source.read_exactly(offset, bytes))
        return Error{DWUNW_ERR_IO, offset.value};
    return bytes;
}

} // namespace

Result<Image> Image::parse(const ByteSource &source) {
    std::array<uint8_t, sizeof(Elf64_Ehdr)> raw;
    const size_t got = source.read(FileOffset(0), raw);
    if (got < SELFMAG || std::memcmp(raw.data(), ELFMAG, SELFMAG) != 0)
        return Error{DWUNW_ERR_NOT_ELF};
    if (got < raw.size())
        return Error{DWUNW_ERR_ELF_MALFORMED, got};
    Elf64_Ehdr header;
    std::memcpy(&header, raw.data(), sizeof(header));
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB)
        return Error{DWUNW_ERR_UNSUPPORTED_ARCH, header.e_ident[EI_CLASS]};

    Image image;
    image.machine_ = header.e_machine;
    image.type_ = header.e_type;
    image.entry_ = LinkAddr(header.e_entry);

    uint64_t program_headers = header.e_phnum;
    uint64_t section_count = header.e_shnum;
    uint32_t names_index = header.e_shstrndx;
    // Counts that do not fit their 16 bits live in section 0 (gABI, "ELF Header": PN_XNUM, SHN_XINDEX).
    const bool extended = program_headers == PN_XNUM || section_count == 0 || names_index == SHN_XINDEX;
    if (extended && header.e_shoff != 0 && header.e_shentsize == sizeof(Elf64_Shdr)) {
        std::array<uint8_t, sizeof(Elf64_Shdr)> raw_first;
        if (in_source(source, FileOffset(header.e_shoff), raw_first.size()) &&
            source.read_exactly(FileOffset(header.e_shoff), raw_first)) {
            Elf64_Shdr first;
            std::memcpy(&first, raw_first.data(), sizeof(first));
            if (program_headers == PN_XNUM)
                program_headers = first.sh_info;
            if (section_count == 0)
                section_count = first.sh_size;
            if (names_index == SHN_XINDEX)
                names_index = first.sh_link;
        }
    }

    if (program_headers > 0) {
        if (header.e_phentsize != sizeof(Elf64_Phdr) || program_headers > kMaxProgramHeaders)
            return Error{DWUNW_ERR_ELF_MALFORMED, program_headers};
        auto table = read_range(source, FileOffset(header.e_phoff), program_headers * sizeof(Elf64_Phdr),
                                kMaxProgramHeaders * sizeof(Elf64_Phdr));
        if (!table)
            return table.error();
        std::vector<Elf64_Phdr> notes;
        for (uint64_t i = 0; i < program_headers; ++i) {
            Elf64_Phdr ph;
            std::memcpy(&ph, table->data() + i * sizeof(ph), sizeof(ph));
            const Segment segment{FileOffset(ph.p_offset), ph.p_filesz, LinkAddr(ph.p_vaddr), ph.p_memsz,
                                  (ph.p_flags & PF_X) != 0};
            if (ph.p_type == PT_LOAD) {
                uint64_t end = 0;
                if (__builtin_add_overflow(ph.p_offset, ph.p_filesz, &end) ||
                    __builtin_add_overflow(ph.p_vaddr, ph.p_memsz, &end))
                    return Error{DWUNW_ERR_ELF_MALFORMED, ph.p_offset};
                image.loads_.push_back(segment);
            } else if (ph.p_type == PT_GNU_EH_FRAME) {
                image.eh_frame_hdr_segment_ = segment;
            } else if (ph.p_type == PT_NOTE) {
                notes.push_back(ph);
            }
        }
        for (const Elf64_Phdr &note : notes)
            image.read_build_id(source, FileOffset(note.p_offset), note.p_filesz);
    }

    // A file without usable section headers can still be unwound through its program headers.
    if (header.e_shoff != 0 && section_count != 0)
        if (auto status = image.parse_sections(source, header.e_shoff, header.e_shentsize, section_count, names_index);
            !status && image.loads_.empty())
            return status.error();
    return image;
}

Status Image::parse_sections(const ByteSource &source, uint64_t offset, uint16_t entry_size, uint64_t count,
                             uint32_t names_index) {
    if (entry_size != sizeof(Elf64_Shdr) || count > kMaxSections || names_index >= count)
        return Error{DWUNW_ERR_ELF_MALFORMED, count};
    auto table = read_range(source, FileOffset(offset), count * sizeof(Elf64_Shdr), kMaxSections * sizeof(Elf64_Shdr));
    if (!table)
        return table.error();
    auto header = [&](uint64_t i) {
        Elf64_Shdr sh;
        std::memcpy(&sh, table->data() + i * sizeof(sh), sizeof(sh));
        return sh;
    };
    const Elf64_Shdr names_header = header(names_index);
    if (names_header.sh_type != SHT_STRTAB)
        return kMalformed;
    auto names = read_range(source, FileOffset(names_header.sh_offset), names_header.sh_size, kMaxNamesBytes);
    if (!names)
        return names.error();

    sections_.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
        const Elf64_Shdr sh = header(i);
        Section section;
        if (sh.sh_name < names->size()) {
            // A hostile table can name one long string from every header; real section names are short.
            constexpr size_t kMaxName = 256;
            const auto *begin = reinterpret_cast<const char *>(names->data()) + sh.sh_name;
            section.name.assign(begin, strnlen(begin, std::min<size_t>(names->size() - sh.sh_name, kMaxName)));
        }
        section.type = sh.sh_type;
        section.flags = sh.sh_flags;
        section.address = LinkAddr(sh.sh_addr);
        section.offset = FileOffset(sh.sh_offset);
        section.size = sh.sh_type == SHT_NOBITS ? 0 : sh.sh_size;
        section.link = sh.sh_link;
        if (sh.sh_type == SHT_NOTE && build_id_.empty())
            read_build_id(source, section.offset, section.size);
        if (section.name == ".text")
            text_base_ = section.address;
        else if (section.name == ".got")
            data_base_ = section.address;
        sections_.push_back(std::move(section));
    }
    return {};
}

// Note layout: gABI "Note Section"; NT_GNU_BUILD_ID. Notes are 4-aligned here. The GNU build-id note is 4-aligned also
// in 8-aligned note segments.
void Image::read_build_id(const ByteSource &source, FileOffset offset, uint64_t size) {
    if (!build_id_.empty())
        return;
    auto bytes = read_range(source, offset, size, kMaxNoteBytes - note_bytes_read_);
    if (!bytes)
        return;
    note_bytes_read_ += size;
    Cursor cursor(*bytes);
    while (!cursor.at_end()) {
        const uint32_t name_size = cursor.u32();
        const uint32_t desc_size = cursor.u32();
        const uint32_t type = cursor.u32();
        auto name = cursor.take((uint64_t{name_size} + 3) & ~uint64_t{3});
        auto desc = cursor.take(desc_size);
        if (!cursor.ok())
            return;
        if (type == NT_GNU_BUILD_ID && name_size == 4 && std::memcmp(name.data(), "GNU", 4) == 0 && !desc.empty() &&
            desc.size() <= kMaxBuildIdBytes) {
            build_id_.assign(desc.begin(), desc.end());
            return;
        }
        cursor.skip(std::min<uint64_t>(-uint64_t{desc_size} & 3, cursor.remaining()));
    }
}

size_t Image::memory_bytes() const {
    size_t bytes = sizeof(*this) + sections_.capacity() * sizeof(Section) + loads_.capacity() * sizeof(Segment);
    for (const Section &section : sections_)
        bytes += section.name.capacity();
    return bytes;
}

const Segment *Image::segment_of(FileOffset offset) const {
    for (const Segment &s : loads_)
        if (offset >= s.offset && offset - s.offset < s.file_size)
            return &s;
    return nullptr;
}

const Segment *Image::segment_of(LinkAddr address) const {
    for (const Segment &s : loads_)
        if (address >= s.address && address - s.address < s.memory_size)
            return &s;
    return nullptr;
}

std::optional<FileOffset> Image::file_offset(LinkAddr address) const {
    const Segment *s = segment_of(address);
    if (s == nullptr || address - s->address >= s->file_size)
        return std::nullopt;
    return s->offset + (address - s->address);
}

bool Image::is_executable(LinkAddr address) const {
    const Segment *s = segment_of(address);
    return s != nullptr && s->executable;
}

// By its own name, or by .z and its name: GNU tools once named compressed sections so.
const Section *Image::find_section(std::string_view name) const {
    const std::string gnu_compressed = name.starts_with(".") ? ".z" + std::string(name.substr(1)) : std::string();
    for (const Section &section : sections_)
        if ((section.name == name || section.name == gnu_compressed) && section.type != SHT_NOBITS && section.size != 0)
            return &section;
    return nullptr;
}

bool Image::is_compressed(const Section &section, std::string_view name) {
    return section.name != name || (section.flags & SHF_COMPRESSED) != 0;
}

bool Image::is_compressed(std::string_view name) const {
    const Section *section = find_section(name);
    return section != nullptr && is_compressed(*section, name);
}

Result<Image::Contents> Image::find_contents(const ByteSource &source, const Section &section, std::string_view name) {
    if (section.size > kMaxSectionBytes)
        return Error{DWUNW_ERR_LIMIT, section.size};
    if (!in_source(source, section.offset, section.size))
        return Error{DWUNW_ERR_ELF_MALFORMED, section.offset.value};
    if (!is_compressed(section, name))
        return Contents{section.offset, section.size, section.size};

    std::array<uint8_t, sizeof(Elf64_Chdr)> buffer;
    const auto header = std::span(buffer).first(std::min<uint64_t>(buffer.size(), section.size));
    if (!source.read_exactly(section.offset, header))
        return Error{DWUNW_ERR_IO, section.offset.value};
    Cursor cursor(header);
    Contents contents;
    if (section.name == name) {
        const uint32_t type = cursor.u32();
        cursor.skip(4); // ch_reserved
        contents.size = cursor.u64();
        cursor.skip(8); // ch_addralign
        if (type != ELFCOMPRESS_ZLIB && type != 2 /* ELFCOMPRESS_ZSTD, newer than Debian 12's elf.h */)
            return Error{DWUNW_ERR_ELF_MALFORMED, type};
        contents.method = type == ELFCOMPRESS_ZLIB ? Compression::kZlib : Compression::kZstd;
    } else {
        // "ZLIB", then the size, big-endian.
        const auto magic = cursor.take(4);
        if (magic.size() != 4 || std::memcmp(magic.data(), "ZLIB", 4) != 0)
            return kMalformed;
        contents.size = __builtin_bswap64(cursor.u64());
        contents.method = Compression::kZlib;
    }
    if (!cursor.ok())
        return kMalformed;
    contents.offset = section.offset + cursor.offset();
    contents.packed = section.size - cursor.offset();
    if (contents.size > std::min(kMaxSectionBytes, expanded_limit(contents.packed)))
        return Error{DWUNW_ERR_LIMIT, contents.size};
    return contents;
}

Result<uint64_t> Image::section_size(const ByteSource &source, std::string_view name) const {
    const Section *section = find_section(name);
    if (section == nullptr)
        return uint64_t{0};
    const auto contents = find_contents(source, *section, name);
    if (!contents)
        return contents.error();
    return contents->size;
}

Result<std::optional<SectionBytes>> Image::read_section(const ByteSource &source, std::string_view name) const {
    const Section *section = find_section(name);
    if (section == nullptr)
        return std::optional<SectionBytes>{};
    const auto contents = find_contents(source, *section, name);
    if (!contents)
        return contents.error();
    auto bytes = read_range(source, contents->offset, contents->packed, kMaxSectionBytes);
    if (!bytes)
        return bytes.error();
    if (contents->method) {
        auto inflated = decompress(*contents->method, *bytes, contents->size);
        if (!inflated)
            return inflated.error();
        *bytes = std::move(*inflated);
    }
    return std::optional<SectionBytes>({std::move(*bytes), section->address});
}

bool Image::may_hold(LinkAddr address) const {
    return sections_.empty() || std::ranges::any_of(sections_, [&](const Section &section) {
               return (section.flags & SHF_ALLOC) != 0 && address >= section.address &&
                      address - section.address < section.size;
           });
}

Result<std::optional<Image::Range>> Image::find_eh_frame(const ByteSource &source) const {
    if (const Section *section = find_section(kEhFrame)) {
        return std::optional<Range>(
            {section->offset, section->size, section->address, is_compressed(*section, kEhFrame)});
    }
    // A separate debug file has its program's headers, also PT_GNU_EH_FRAME, but not the bytes.
    const bool left_out = std::any_of(sections_.begin(), sections_.end(), [](const Section &section) {
        return section.name == kEhFrame && section.type == SHT_NOBITS;
    });
    // A tool that removes .eh_frame_hdr leaves the program header behind.
    if (!eh_frame_hdr_segment_ || left_out || eh_frame_hdr_segment_->file_size == 0 ||
        !may_hold(eh_frame_hdr_segment_->address))
        return std::optional<Range>{};

    // LSB Core, ".eh_frame_hdr": version 1, the encoding of eh_frame_ptr, of fde_count, of the table; then
    // eh_frame_ptr. Linkers write it pc-relative in 4 bytes (GNU ld, gold, lld, mold).
    std::array<uint8_t, 8> header;
    const FileOffset header_offset = eh_frame_hdr_segment_->offset;
    if (!source.read_exactly(header_offset, header) || header[0] != 1)
        return Error{DWUNW_ERR_ELF_MALFORMED, header_offset.value};
    constexpr uint8_t kPcRelative4Signed = 0x1b;
    if (header[1] != kPcRelative4Signed)
        return Error{DWUNW_ERR_ELF_MALFORMED, header[1]};
    int32_t distance;
    std::memcpy(&distance, header.data() + 4, sizeof(distance));
    const LinkAddr address = eh_frame_hdr_segment_->address + 4 + static_cast<uint64_t>(int64_t{distance});
    if (!may_hold(address))
        return std::optional<Range>{};
    const Segment *segment = segment_of(address);
    if (segment == nullptr || address - segment->address >= segment->file_size)
        return Error{DWUNW_ERR_ELF_MALFORMED, address.value};
    // The file does not state the section's end: the end is its zero terminator, at the latest the segment's end.
    const uint64_t skip = address - segment->address;
    const FileOffset offset = segment->offset + skip;
    if (offset.value > source.size())
        return Error{DWUNW_ERR_ELF_MALFORMED, offset.value};
    const uint64_t size = std::min(segment->file_size - skip, source.size() - offset.value);
    return std::optional<Range>({offset, size, address, false});
}

Result<std::optional<SectionBytes>> Image::read_eh_frame(const ByteSource &source) const {
    const auto range = find_eh_frame(source);
    if (!range)
        return range.error();
    if (!*range)
        return std::optional<SectionBytes>{};
    if ((*range)->compressed)
        return read_section(source, kEhFrame);
    auto bytes = read_range(source, (*range)->offset, (*range)->size, kMaxSectionBytes);
    if (!bytes)
        return bytes.error();
    return std::optional<SectionBytes>({std::move(*bytes), (*range)->address});
}

Result<std::optional<LazySection>> Image::open_eh_frame(std::shared_ptr<const ByteSource> source) const {
    const auto range = find_eh_frame(*source);
    if (!range)
        return range.error();
    if (!*range)
        return std::optional<LazySection>{};
    if ((*range)->compressed) {
        auto inflated = read_section(*source, kEhFrame);
        if (!inflated)
            return inflated.error();
        return std::optional<LazySection>(std::move(*inflated));
    }
    const auto [offset, size, address, compressed] = **range;
    if (size > kMaxSectionBytes)
        return Error{DWUNW_ERR_LIMIT, size};
    if (!in_source(*source, offset, size))
        return Error{DWUNW_ERR_ELF_MALFORMED, offset.value};
    return std::optional<LazySection>(std::in_place, std::move(source), offset, size, address);
}

std::optional<LazySection> Image::open_eh_frame_hdr(std::shared_ptr<const ByteSource> source) const {
    if (!eh_frame_hdr_segment_ || eh_frame_hdr_segment_->file_size > kMaxSectionBytes ||
        !in_source(*source, eh_frame_hdr_segment_->offset, eh_frame_hdr_segment_->file_size))
        return std::nullopt;
    return std::optional<LazySection>(std::in_place, std::move(source), eh_frame_hdr_segment_->offset,
                                      eh_frame_hdr_segment_->file_size, eh_frame_hdr_segment_->address);
}

} // namespace dwunw::elf
