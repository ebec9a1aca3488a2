// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Builds small 64-bit ELF files in memory, with exactly the contents that a test needs.
#pragma once

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace dwunw::testing {

class ElfBuilder {
  public:
    struct Section {
        std::string name;
        std::vector<uint8_t> bytes;
        uint64_t address = 0;
        uint64_t flags = SHF_ALLOC;
        uint32_t type = SHT_PROGBITS;
        uint32_t link = 0;
    };

    ElfBuilder() {
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_ident[EI_VERSION] = EV_CURRENT;
        header.e_type = ET_DYN;
        header.e_machine = EM_X86_64;
        header.e_version = EV_CURRENT;
        header.e_ehsize = sizeof(Elf64_Ehdr);
        header.e_phentsize = sizeof(Elf64_Phdr);
        header.e_shentsize = sizeof(Elf64_Shdr);
    }

    // Section 0 and .shstrtab are added by build().
    ElfBuilder &add(Section section) {
        sections.push_back(std::move(section));
        return *this;
    }
    // A program header whose file offset is that of the named section.
    ElfBuilder &add_segment(uint32_t type, uint32_t flags, const std::string &section) {
        segments.push_back({type, flags, section});
        return *this;
    }

    // Header, program headers, the sections' bytes one after the other, the section header table.
    std::vector<uint8_t> build() {
        std::string names(1, '\0');
        std::vector<Elf64_Shdr> table(1);
        std::vector<Section> all = sections;
        all.push_back({".shstrtab", {}, 0, 0, SHT_STRTAB});
        for (const Section &section : all) {
            Elf64_Shdr entry{};
            entry.sh_name = static_cast<uint32_t>(names.size());
            entry.sh_type = section.type;
            entry.sh_flags = section.flags;
            entry.sh_addr = section.address;
            entry.sh_link = section.link;
            names += section.name + '\0';
            table.push_back(entry);
        }
        all.back().bytes.assign(names.begin(), names.end());

        std::vector<uint8_t> file(sizeof(Elf64_Ehdr) + segments.size() * sizeof(Elf64_Phdr));
        for (size_t i = 0; i < all.size(); ++i) {
            table[i + 1].sh_offset = file.size();
            table[i + 1].sh_size = all[i].bytes.size();
            file.insert(file.end(), all[i].bytes.begin(), all[i].bytes.end());
        }
        for (size_t i = 0; i < segments.size(); ++i) {
            Elf64_Phdr entry{};
            entry.p_type = segments[i].type;
            entry.p_flags = segments[i].flags;
            for (size_t j = 0; j < all.size(); ++j) {
                if (all[j].name != segments[i].section)
                    continue;
                entry.p_offset = table[j + 1].sh_offset;
                entry.p_vaddr = all[j].address;
                entry.p_filesz = entry.p_memsz = all[j].bytes.size();
            }
            std::memcpy(file.data() + sizeof(Elf64_Ehdr) + i * sizeof(entry), &entry, sizeof(entry));
        }
        if (with_section_headers) {
            header.e_shoff = file.size();
            header.e_shnum = static_cast<uint16_t>(table.size());
            header.e_shstrndx = static_cast<uint16_t>(table.size() - 1);
            const auto *bytes = reinterpret_cast<const uint8_t *>(table.data());
            file.insert(file.end(), bytes, bytes + table.size() * sizeof(Elf64_Shdr));
        }
        if (!segments.empty())
            header.e_phoff = sizeof(Elf64_Ehdr);
        header.e_phnum = static_cast<uint16_t>(segments.size());
        std::memcpy(file.data(), &header, sizeof(header));
        return file;
    }

    struct Segment {
        uint32_t type;
        uint32_t flags;
        std::string section;
    };
    Elf64_Ehdr header{};
    std::vector<Section> sections;
    std::vector<Segment> segments;
    bool with_section_headers = true;
};

// A note in the layout of the build-id's.
inline std::vector<uint8_t> note(const std::string &name, uint32_t type, const std::vector<uint8_t> &description) {
    std::vector<uint8_t> bytes;
    const auto word = [&](uint32_t value) {
        for (int i = 0; i < 4; ++i)
            bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
    };
    const auto padded = [&](const auto &from) {
        bytes.insert(bytes.end(), from.begin(), from.end());
        while (bytes.size() % 4 != 0)
            bytes.push_back(0);
    };
    word(static_cast<uint32_t>(name.size() + 1));
    word(static_cast<uint32_t>(description.size()));
    word(type);
    padded(name + '\0');
    padded(description);
    return bytes;
}

} // namespace dwunw::testing
