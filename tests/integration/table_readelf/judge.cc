// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// libdw describes rules as DWARF locations: "saved at CFA+n" is DW_OP_call_frame_cfa, DW_OP_plus_uconst n. This file
// turns these back into the words of the CFI. A location without such a form was an expression.
#include "judge.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <fcntl.h>
#include <gelf.h>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <unistd.h>

namespace table_readelf {
namespace {

constexpr int kRbp = 6;
constexpr std::array<const char *, 17> kNames = {"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8",
                                                 "r9",  "r10", "r11", "r12", "r13", "r14", "r15", "rip"};

std::string name(uint64_t reg) { return reg < kNames.size() ? kNames[reg] : "r" + std::to_string(reg); }

std::string with_offset(std::string_view what, uint64_t offset) {
    const auto value = static_cast<int64_t>(offset);
    return std::string(what) + (value < 0 ? "" : "+") + std::to_string(value);
}

std::string cfa_text(std::span<const Dwarf_Op> ops) {
    if (ops.size() == 1) {
        const Dwarf_Op &op = ops.front();
        if (op.atom >= DW_OP_breg0 && op.atom <= DW_OP_breg31)
            return with_offset(name(op.atom - DW_OP_breg0), op.number);
        if (op.atom == DW_OP_bregx)
            return with_offset(name(op.number), op.number2);
    }
    return "exp";
}

std::string register_text(const Dwarf_Op *ops, size_t count, const Dwarf_Op *plain) {
    if (ops == nullptr)
        return "s";
    if (count == 0)
        return "u";
    std::span<const Dwarf_Op> rest(ops, count);
    const bool is_value = rest.back().atom == DW_OP_stack_value;
    if (ops == plain) {
        if (rest.front().atom >= DW_OP_reg0 && rest.front().atom <= DW_OP_reg31)
            return name(rest.front().atom - DW_OP_reg0);
        if (rest.front().atom == DW_OP_regx)
            return name(rest.front().number);
        rest = rest.first(count - is_value);
        if (rest.front().atom == DW_OP_call_frame_cfa && rest.size() == 1)
            return is_value ? "v+0" : "c+0";
        if (rest.front().atom == DW_OP_call_frame_cfa && rest.size() == 2 && rest[1].atom == DW_OP_plus_uconst)
            return with_offset(is_value ? "v" : "c", rest[1].number);
    }
    return is_value ? "vexp" : "exp";
}

// The reference interpreter's "r7+8", "r3", "c-16" with the register's name.
std::string with_name(const std::string &value) {
    if (value.size() < 2 || value[0] != 'r')
        return value;
    size_t digits = 0;
    const unsigned long reg = std::stoul(value.substr(1), &digits);
    return name(reg) + value.substr(1 + digits);
}

struct Bytes {
    std::vector<uint8_t> data;
    uint64_t address = 0;
};

// A section's bytes, uncompressed; none where there is no such section.
Bytes read_section(Elf *elf, std::string_view wanted) {
    size_t names = 0;
    if (elf == nullptr || elf_getshdrstrndx(elf, &names) != 0)
        return {};
    for (Elf_Scn *section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
        GElf_Shdr header;
        if (gelf_getshdr(section, &header) == nullptr || header.sh_type == SHT_NOBITS)
            continue;
        const char *found = elf_strptr(elf, names, header.sh_name);
        if (found == nullptr || wanted != found)
            continue;
        // libdw may have done so already.
        if ((header.sh_flags & SHF_COMPRESSED) != 0 && elf_compress(section, 0, 0) < 0)
            return {};
        const Elf_Data *data = elf_rawdata(section, nullptr);
        if (data == nullptr)
            return {};
        const auto *bytes = static_cast<const uint8_t *>(data->d_buf);
        return {{bytes, bytes + data->d_size}, header.sh_addr};
    }
    return {};
}

struct Freed {
    void operator()(void *memory) const { std::free(memory); }
};

} // namespace

struct Judge::File {
    int fd = -1;
    Elf *elf = nullptr;
    Dwarf *dwarf = nullptr;
    std::array<Dwarf_CFI *, 2> sections{}; // .eh_frame, .debug_frame

    ~File() {
        if (sections[0] != nullptr)
            dwarf_cfi_end(sections[0]);
        if (dwarf != nullptr)
            dwarf_end(dwarf); // .debug_frame's as well
        if (elf != nullptr)
            elf_end(elf);
        if (fd >= 0)
            ::close(fd);
    }
};

Judge::Judge(const std::string &path) : file_(std::make_unique<File>()) {
    file_->fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_->fd < 0)
        return;
    file_->elf = elf_begin(file_->fd, ELF_C_READ_MMAP, nullptr);
    if (file_->elf == nullptr)
        return;
    file_->sections[0] = dwarf_getcfi_elf(file_->elf);
    file_->dwarf = dwarf_begin_elf(file_->elf, DWARF_C_READ, nullptr);
    if (file_->dwarf != nullptr)
        file_->sections[1] = dwarf_getcfi(file_->dwarf);
}

Judge::~Judge() = default;

Judge::Opinion Judge::libdw(uint64_t address) const {
    Opinion opinion{"libdw", "", "no CFI", address + 1};
    for (Dwarf_CFI *section : file_->sections) {
        if (section == nullptr)
            continue;
        Dwarf_Frame *found = nullptr;
        if (dwarf_cfi_addrframe(section, address, &found) != 0) {
            opinion.error = dwarf_errmsg(-1);
            continue;
        }
        const std::unique_ptr<Dwarf_Frame, Freed> frame(found);
        Dwarf_Addr start = 0;
        Dwarf_Addr end = 0;
        bool signal_frame = false;
        const int ra = dwarf_frame_info(found, &start, &end, &signal_frame);
        Dwarf_Op *ops = nullptr;
        size_t count = 0;
        if (dwarf_frame_cfa(found, &ops, &count) != 0) {
            opinion.error = dwarf_errmsg(-1);
            continue;
        }
        std::string rule = cfa_text({ops, count});
        bool complete = true;
        for (const int reg : {ra, kRbp}) {
            std::array<Dwarf_Op, 3> plain;
            if (dwarf_frame_register(found, reg, plain.data(), &ops, &count) != 0) {
                opinion.error = dwarf_errmsg(-1);
                complete = false;
                break;
            }
            rule += ' ' + register_text(ops, count, plain.data());
        }
        if (complete)
            return {"libdw", rule, "", end > address ? end : address + 1};
    }
    return opinion;
}

Judge::Opinion Judge::at(uint64_t address) {
    Opinion opinion = libdw(address);
    if (!opinion.rule.empty())
        return opinion;
    const Opinion second = reference(address);
    return second.rule.empty() ? opinion : second;
}

Judge::Opinion Judge::reference(uint64_t address) {
    using dwunw::reference::Fde;
    for (const bool is_debug_frame : {false, true}) {
        auto &fdes = fdes_[is_debug_frame];
        if (!fdes) {
            fdes.emplace();
            try {
                const Bytes section = read_section(file_->elf, is_debug_frame ? ".debug_frame" : ".eh_frame");
                *fdes = is_debug_frame ? dwunw::reference::read_debug_frame(section.data)
                                       : dwunw::reference::read_eh_frame(section.data, section.address);
            } catch (const std::runtime_error &) {
                // It has no opinion on what it does not know.
            }
            // Of several with one start the first comes to stand last, where the search below meets it.
            std::ranges::reverse(*fdes);
            std::ranges::stable_sort(*fdes, {}, &Fde::start);
        }
        const auto after = std::ranges::upper_bound(*fdes, address, {}, &Fde::start);
        if (after == fdes->begin() || std::prev(after)->end <= address)
            continue;
        const Fde &fde = *std::prev(after);
        const auto row = std::ranges::upper_bound(fde.rows, address, {}, &dwunw::reference::Row::start);
        if (row == fde.rows.begin())
            continue;
        const auto &found = *std::prev(row);
        return {"reference",
                with_name(found.cfa) + ' ' + with_name(found.of(fde.return_address_register)) + ' ' +
                    with_name(found.of(kRbp)),
                "", row == fde.rows.end() ? fde.end : row->start};
    }
    return {"reference", "", "no CFI", address + 1};
}

} // namespace table_readelf
