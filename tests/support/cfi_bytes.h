// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Call-frame information, assembled byte by byte, for tests of its readers.
#pragma once

#include "arch/arch.h"
#include "dwarf/constants.h"

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

namespace dwunw::testing {

class Bytes {
  public:
    Bytes() = default;
    Bytes(std::initializer_list<int> bytes) {
        for (const int byte : bytes)
            u8(byte);
    }

    Bytes &u8(uint64_t value) { return number(value, 1); }
    Bytes &u16(uint64_t value) { return number(value, 2); }
    Bytes &u32(uint64_t value) { return number(value, 4); }
    Bytes &u64(uint64_t value) { return number(value, 8); }
    Bytes &uleb(uint64_t value) {
        do {
            const uint8_t low = value & 0x7f;
            value >>= 7;
            u8(value != 0 ? low | 0x80 : low);
        } while (value != 0);
        return *this;
    }
    Bytes &sleb(int64_t value) {
        while (true) {
            const uint8_t low = value & 0x7f;
            value >>= 7;
            const bool last = value == ((low & 0x40) != 0 ? -1 : 0);
            u8(last ? low : low | 0x80);
            if (last)
                return *this;
        }
    }
    Bytes &text(const std::string &value) { // with its NUL
        data_.insert(data_.end(), value.c_str(), value.c_str() + value.size() + 1);
        return *this;
    }
    Bytes &add(const Bytes &other) {
        data_.insert(data_.end(), other.data_.begin(), other.data_.end());
        return *this;
    }
    // A length in ULEB128, and the bytes.
    Bytes &block(const Bytes &other) { return uleb(other.size()).add(other); }

    // Instructions and operators with operands.
    Bytes &def_cfa(uint64_t reg, uint64_t offset) { return u8(dwarf::DW_CFA_def_cfa).uleb(reg).uleb(offset); }
    Bytes &def_cfa_offset(uint64_t offset) { return u8(dwarf::DW_CFA_def_cfa_offset).uleb(offset); }
    Bytes &offset(uint64_t reg, uint64_t factored) { return u8(dwarf::DW_CFA_offset | reg).uleb(factored); }
    Bytes &advance(uint64_t delta) { return u8(dwarf::DW_CFA_advance_loc | delta); }

    size_t size() const { return data_.size(); }
    const std::vector<uint8_t> &data() const { return data_; }
    std::vector<uint8_t> &data() { return data_; }
    void patch_u32(size_t at, uint32_t value) { std::memcpy(data_.data() + at, &value, sizeof(value)); }

  private:
    Bytes &number(uint64_t value, size_t size) {
        for (size_t i = 0; i < size; ++i)
            data_.push_back(static_cast<uint8_t>(value >> (8 * i)));
        return *this;
    }
    std::vector<uint8_t> data_;
};

inline const arch::Arch &x86_64() { return *arch::find_by_machine(EM_X86_64); }

// Its DWARF numbers.
enum Reg : uint8_t { RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15, RIP };

// The opcodes that hold a register's number.
constexpr uint8_t breg(Reg reg) { return static_cast<uint8_t>(dwarf::DW_OP_breg0 + uint8_t{reg}); }
constexpr uint8_t cfa_offset(Reg reg) { return static_cast<uint8_t>(dwarf::DW_CFA_offset | uint8_t{reg}); }
constexpr uint8_t cfa_restore(Reg reg) { return static_cast<uint8_t>(dwarf::DW_CFA_restore | uint8_t{reg}); }

// The usual instructions of a CIE: CFA = rsp+8, return address at CFA−8.
inline Bytes usual_cie_instructions() { return Bytes().def_cfa(RSP, 8).offset(RIP, 1); }

// A section .eh_frame with absolute addresses, or .debug_frame.
class FrameSection {
  public:
    explicit FrameSection(bool debug_frame = false) : debug_frame_(debug_frame) {}

    // Returns its offset, for fde().
    size_t cie(const Bytes &instructions = usual_cie_instructions(), const std::string &augmentation = "zR",
               uint8_t fde_encoding = dwarf::DW_EH_PE_absptr, uint64_t return_address_register = RIP) {
        Bytes body;
        body.u32(debug_frame_ ? 0xffffffff : 0);
        body.u8(1).text(debug_frame_ ? "" : augmentation).uleb(1).sleb(-8).uleb(return_address_register);
        if (!debug_frame_ && augmentation.starts_with('z')) {
            Bytes data;
            for (const char letter : augmentation.substr(1))
                if (letter == 'R')
                    data.u8(fde_encoding);
                else if (letter == 'L')
                    data.u8(dwarf::DW_EH_PE_omit);
            body.block(data);
        }
        has_augmentation_data_ = !debug_frame_ && augmentation.starts_with('z');
        return entry(body.add(instructions));
    }
    size_t fde(size_t cie, uint64_t start, uint64_t length, const Bytes &instructions = {}) {
        Bytes body;
        // Backwards from this field, or from the section's start.
        body.u32(debug_frame_ ? cie : section_.size() + 4 - cie);
        body.u64(start).u64(length);
        if (has_augmentation_data_)
            body.uleb(0);
        return entry(body.add(instructions));
    }
    void end() { section_.u32(0); }

    const std::vector<uint8_t> &data() const { return section_.data(); }
    std::vector<uint8_t> &data() { return section_.data(); }

  private:
    size_t entry(Bytes body) {
        while (body.size() % 4 != 0)
            body.u8(dwarf::DW_CFA_nop);
        const size_t offset = section_.size();
        section_.u32(body.size()).add(body);
        return offset;
    }
    bool debug_frame_;
    bool has_augmentation_data_ = false;
    Bytes section_;
};

} // namespace dwunw::testing
