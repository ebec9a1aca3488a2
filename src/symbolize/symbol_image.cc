// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "symbolize/symbol_image.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace dwunw {
namespace {

constexpr std::string_view kDebugdata = ".gnu_debugdata";
constexpr uint64_t kPage = 0x1000;

// Builds an ELF file: appends bytes, and writes headers into reserved room.
class Writer {
  public:
    explicit Writer(std::vector<uint8_t> &bytes) : bytes_(bytes) {}

    uint64_t room(uint64_t size) {
        const uint64_t at = (bytes_.size() + 7) & ~uint64_t{7};
        bytes_.resize(at + size);
        return at;
    }
    template <typename T> void put(uint64_t at, const T &value) {
        std::memcpy(bytes_.data() + at, &value, sizeof(value));
    }
    std::span<uint8_t> at(uint64_t offset, uint64_t size) { return std::span(bytes_).subspan(offset, size); }

  private:
    std::vector<uint8_t> &bytes_;
};

Elf64_Ehdr header_of(const elf::Image &image) {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = image.type();
    header.e_machine = image.machine();
    header.e_version = EV_CURRENT;
    header.e_ehsize = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_shentsize = sizeof(Elf64_Shdr);
    return header;
}

// The sections whose bytes are needed: .symtab, otherwise .dynsym (there is one of each), and the strings that it
// names.
Result<std::vector<bool>> wanted_sections(const elf::Image &image) {
    const auto &sections = image.sections();
    std::vector<bool> wanted(sections.size());
    auto table = std::ranges::find(sections, uint32_t{SHT_SYMTAB}, &elf::Section::type);
    if (table == sections.end())
        table = std::ranges::find(sections, uint32_t{SHT_DYNSYM}, &elf::Section::type);
    if (table == sections.end())
        return wanted;
    wanted[static_cast<size_t>(table - sections.begin())] = true;
    if (table->link < sections.size() && sections[table->link].type == SHT_STRTAB)
        wanted[table->link] = true;
    for (size_t i = 0; i < sections.size(); ++i)
        // The gABI allows it; it does not occur.
        if (wanted[i] && (sections[i].flags & SHF_COMPRESSED) != 0)
            return Error{DWUNW_ERR_ELF_MALFORMED, sections[i].offset.value};
    return wanted;
}

// The note in the linkers' form, so that libdwfl finds the separate debug file.
std::vector<uint8_t> build_id_note(const std::vector<uint8_t> &build_id) {
    const Elf64_Nhdr header{4, static_cast<Elf64_Word>(build_id.size()), NT_GNU_BUILD_ID};
    std::vector<uint8_t> note(sizeof(header));
    std::memcpy(note.data(), &header, sizeof(header));
    note.insert(note.end(), {'G', 'N', 'U', '\0'});
    note.insert(note.end(), build_id.begin(), build_id.end());
    note.resize((note.size() + 3) & ~size_t{3});
    return note;
}

Status read(const ByteSource &source, FileOffset offset, std::span<uint8_t> into) {
    if (!source.read_exactly(offset, into))
        return Error{DWUNW_ERR_IO, offset.value};
    return {};
}

} // namespace

Result<SymbolImage> SymbolImage::make(const ByteSource &source, Budget &budget) {
    auto image = elf::Image::parse(source);
    if (!image)
        return image.error();
    SymbolImage result;
    result.image = std::move(*image);
    const auto &sections = result.image.sections();
    const auto &loads = result.image.load_segments();
    if (loads.empty())
        return Error{DWUNW_ERR_ELF_MALFORMED};

    if (sections.empty()) {
        if (source.size() > kMaxCopiedImage)
            return Error{DWUNW_ERR_LIMIT, source.size()};
        auto share = budget.take(source.size());
        if (!share)
            return Error{DWUNW_ERR_LIMIT, source.size()};
        result.share = std::move(*share);
        result.bytes.resize(source.size());
        if (auto status = read(source, FileOffset(0), result.bytes); !status)
            return status.error();
        // The image's section headers are unusable, if it has any: clear them.
        Elf64_Ehdr header;
        if (result.bytes.size() < sizeof(header))
            return Error{DWUNW_ERR_ELF_MALFORMED};
        std::memcpy(&header, result.bytes.data(), sizeof(header));
        header.e_shoff = 0;
        header.e_shnum = header.e_shstrndx = 0;
        std::memcpy(result.bytes.data(), &header, sizeof(header));
        return result;
    }

    if (sections.size() > kMaxSections)
        return Error{DWUNW_ERR_LIMIT, sections.size()};
    const auto wanted = wanted_sections(result.image);
    if (!wanted)
        return wanted.error();
    const bool has_symtab = std::ranges::find(sections, uint32_t{SHT_SYMTAB}, &elf::Section::type) != sections.end();
    const auto debugdata = has_symtab ? sections.end() : std::ranges::find(sections, kDebugdata, &elf::Section::name);
    uint64_t total = 0;
    for (size_t i = 0; i < sections.size(); ++i) {
        const elf::Section &section = sections[i];
        if (!(*wanted)[i] && (debugdata == sections.end() || &section != &*debugdata))
            continue;
        if (section.size > kMaxTableBytes - total)
            return Error{DWUNW_ERR_LIMIT, section.size};
        if (section.offset.value > source.size() || section.size > source.size() - section.offset.value)
            return Error{DWUNW_ERR_ELF_MALFORMED, section.offset.value};
        total += section.size;
    }
    auto share = budget.take(total);
    if (!share)
        return Error{DWUNW_ERR_LIMIT, total};
    result.share = std::move(*share);

    const std::vector<uint8_t> note = build_id_note(result.image.build_id());
    const size_t section_count = sections.size() + 2; // and the note, and an empty name table
    // No byte may move while the file is filled.
    result.bytes.reserve(sizeof(Elf64_Ehdr) + loads.size() * sizeof(Elf64_Phdr) +
                         section_count * (sizeof(Elf64_Shdr) + 8) + total + note.size() + 64);
    Writer writer(result.bytes);
    Elf64_Ehdr header = header_of(result.image);
    writer.room(sizeof(header));
    header.e_phoff = writer.room(loads.size() * sizeof(Elf64_Phdr));
    header.e_phnum = static_cast<Elf64_Half>(loads.size());
    for (size_t i = 0; i < loads.size(); ++i) {
        Elf64_Phdr segment{};
        segment.p_type = PT_LOAD;
        segment.p_flags = PF_R | (loads[i].executable ? PF_X : 0);
        segment.p_vaddr = segment.p_paddr = loads[i].address.value;
        segment.p_memsz = loads[i].memory_size;
        segment.p_align = kPage;
        writer.put(header.e_phoff + i * sizeof(segment), segment);
    }

    std::vector<Elf64_Shdr> table(section_count);
    for (size_t i = 1; i < sections.size(); ++i) {
        Elf64_Shdr &entry = table[i];
        entry.sh_type = SHT_NOBITS;
        entry.sh_flags = sections[i].flags & (SHF_ALLOC | SHF_EXECINSTR | SHF_WRITE);
        entry.sh_addr = sections[i].address.value;
        entry.sh_size = sections[i].size;
        entry.sh_addralign = 1;
        if (!(*wanted)[i])
            continue;
        entry.sh_type = sections[i].type;
        entry.sh_offset = writer.room(sections[i].size);
        entry.sh_link = sections[i].link;
        entry.sh_addralign = 8;
        if (sections[i].type != SHT_STRTAB)
            entry.sh_entsize = sizeof(Elf64_Sym);
        if (auto status = read(source, sections[i].offset, writer.at(entry.sh_offset, entry.sh_size)); !status)
            return status.error();
    }
    Elf64_Shdr &note_entry = table[sections.size()];
    if (!result.image.build_id().empty()) {
        note_entry.sh_type = SHT_NOTE;
        note_entry.sh_offset = writer.room(note.size());
        note_entry.sh_size = note.size();
        note_entry.sh_addralign = 4;
        std::ranges::copy(note, writer.at(note_entry.sh_offset, note.size()).begin());
    }
    Elf64_Shdr &names = table[sections.size() + 1];
    names.sh_type = SHT_STRTAB;
    names.sh_offset = writer.room(1);
    names.sh_size = 1;
    names.sh_addralign = 1;

    header.e_shoff = writer.room(table.size() * sizeof(Elf64_Shdr));
    header.e_shnum = static_cast<Elf64_Half>(table.size());
    header.e_shstrndx = static_cast<Elf64_Half>(table.size() - 1);
    for (size_t i = 0; i < table.size(); ++i)
        writer.put(header.e_shoff + i * sizeof(Elf64_Shdr), table[i]);
    writer.put(0, header);

    if (debugdata != sections.end()) {
        result.debugdata.resize(debugdata->size);
        if (auto status = read(source, debugdata->offset, result.debugdata); !status)
            return status.error();
    }
    return result;
}

} // namespace dwunw
