// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// libdw describes rules as DWARF locations: "saved at CFA+n" is DW_OP_call_frame_cfa, DW_OP_plus_uconst n. These are
// brought back into the words of the CFI; what has no such form was an expression.
#include "libdw_judge.h"

#include <array>
#include <cstdlib>
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <fcntl.h>
#include <optional>
#include <span>
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

struct Freed {
    void operator()(void *memory) const { std::free(memory); }
};

} // namespace

struct LibdwJudge::File {
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

LibdwJudge::LibdwJudge(const std::string &path) : file_(std::make_unique<File>()) {
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

LibdwJudge::~LibdwJudge() = default;

LibdwJudge::Opinion LibdwJudge::at(uint64_t address) const {
    Opinion opinion{"", "no CFI", address + 1};
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
            return {rule, "", end > address ? end : address + 1};
    }
    return opinion;
}

} // namespace table_readelf
