// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "reference_cfi.h"

#include <algorithm>
#include <stdexcept>

namespace dwunw::reference {
namespace {

class Reader {
  public:
    Reader(const std::vector<uint8_t> &bytes, size_t begin, size_t end) : bytes_(bytes), at_(begin), end_(end) {}

    bool done() const { return at_ >= end_; }
    size_t at() const { return at_; }
    void skip(size_t n) { at_ += n; }

    uint64_t fixed(size_t size) {
        uint64_t value = 0;
        for (size_t i = 0; i < size; ++i)
            value |= uint64_t{byte()} << (8 * i);
        return value;
    }
    int64_t fixed_signed(size_t size) {
        const unsigned unused = 64 - 8 * static_cast<unsigned>(size);
        return static_cast<int64_t>(fixed(size) << unused) >> unused;
    }
    uint64_t uleb() {
        uint64_t value = 0;
        for (unsigned shift = 0;; shift += 7) {
            const uint8_t b = byte();
            value |= uint64_t{b & 0x7fu} << shift;
            if (b < 0x80)
                return value;
        }
    }
    int64_t sleb() {
        uint64_t value = 0;
        for (unsigned shift = 0;;) {
            const uint8_t b = byte();
            value |= uint64_t{b & 0x7fu} << shift;
            shift += 7;
            if (b < 0x80) {
                if ((b & 0x40) != 0 && shift < 64)
                    value |= ~uint64_t{0} << shift;
                return static_cast<int64_t>(value);
            }
        }
    }
    std::string text() {
        std::string value;
        while (const char c = static_cast<char>(byte()))
            value += c;
        return value;
    }

  private:
    uint8_t byte() {
        if (at_ >= end_)
            throw std::runtime_error("read past the end");
        return bytes_[at_++];
    }
    const std::vector<uint8_t> &bytes_;
    size_t at_;
    size_t end_;
};

struct Cie {
    std::string augmentation;
    uint64_t code_factor = 0;
    int64_t data_factor = 0;
    uint64_t return_address_register = 0;
    uint8_t fde_encoding = 0;
    size_t instructions = 0;
    size_t end = 0;
};

uint64_t encoded(Reader &reader, uint8_t encoding, uint64_t section_address) {
    const uint64_t base = (encoding & 0x70) == 0x10 ? section_address + reader.at() : 0;
    if ((encoding & 0xf0) != 0 && (encoding & 0xf0) != 0x10)
        throw std::runtime_error("an encoding that no compiler uses here");
    switch (encoding & 0x0f) {
    case 0x00:
    case 0x04:
    case 0x0c:
        return base + reader.fixed(8);
    case 0x02:
        return base + reader.fixed(2);
    case 0x03:
        return base + reader.fixed(4);
    case 0x0a:
        return base + static_cast<uint64_t>(reader.fixed_signed(2));
    case 0x0b:
        return base + static_cast<uint64_t>(reader.fixed_signed(4));
    default:
        throw std::runtime_error("an encoding that no compiler uses here");
    }
}

Cie read_cie(const std::vector<uint8_t> &section, size_t offset) {
    Reader reader(section, offset, section.size());
    Cie cie;
    const uint64_t length = reader.fixed(4);
    cie.end = reader.at() + length;
    reader.skip(4);
    const uint64_t version = reader.fixed(1);
    if (version != 1 && version != 3 && version != 4)
        throw std::runtime_error("CIE version");
    cie.augmentation = reader.text();
    if (version == 4 && reader.fixed(2) != 8)
        throw std::runtime_error("address or segment selector size");
    cie.code_factor = reader.uleb();
    cie.data_factor = reader.sleb();
    cie.return_address_register = version == 1 ? reader.fixed(1) : reader.uleb();
    if (cie.augmentation.starts_with('z')) {
        const uint64_t size = reader.uleb();
        cie.instructions = reader.at() + size;
        for (const char letter : cie.augmentation.substr(1)) {
            if (letter == 'R')
                cie.fde_encoding = static_cast<uint8_t>(reader.fixed(1));
            else if (letter == 'P')
                encoded(reader, static_cast<uint8_t>(reader.fixed(1)) & 0x7f, 0);
            else if (letter == 'L')
                reader.skip(1);
            else if (letter != 'S')
                throw std::runtime_error("augmentation " + cie.augmentation);
        }
    } else {
        cie.instructions = reader.at();
    }
    return cie;
}

std::string signed_text(int64_t value) { return (value < 0 ? "" : "+") + std::to_string(value); }

// The registers' state while a program runs.
struct State {
    bool has_register_cfa = false;
    uint64_t cfa_register = 0;
    int64_t cfa_offset = 0;
    std::map<uint64_t, std::string> registers;

    Row row(uint64_t start) const {
        return {start, has_register_cfa ? "r" + std::to_string(cfa_register) + signed_text(cfa_offset) : "exp",
                registers};
    }
};

class Program {
  public:
    Program(const Cie &cie, Fde &fde) : cie_(cie), fde_(fde), location_(fde.start) {}

    void run_initial(Reader reader) {
        run(reader);
        initial_ = state_;
    }
    void run_own(Reader reader) {
        run(reader);
        emit(fde_.end);
    }

  private:
    // The row from location_ up to `next`.
    void emit(uint64_t next) {
        if (location_ < next)
            fde_.rows.push_back(state_.row(location_));
        location_ = next;
    }
    void advance(uint64_t delta) { emit(std::min(location_ + delta * cie_.code_factor, fde_.end)); }
    void saved(uint64_t reg, int64_t factored, char how) {
        state_.registers[reg] = how + signed_text(factored * cie_.data_factor);
    }
    void restore(uint64_t reg) {
        const auto found = initial_.registers.find(reg);
        if (found == initial_.registers.end())
            state_.registers.erase(reg);
        else
            state_.registers[reg] = found->second;
    }
    void cfa(uint64_t reg, int64_t offset) {
        state_.has_register_cfa = true;
        state_.cfa_register = reg;
        state_.cfa_offset = offset;
    }

    void run(Reader &reader) {
        while (!reader.done()) {
            const auto opcode = static_cast<uint8_t>(reader.fixed(1));
            const uint8_t low = opcode & 0x3f;
            switch (opcode >> 6) {
            case 1:
                advance(low);
                continue;
            case 2:
                saved(low, static_cast<int64_t>(reader.uleb()), 'c');
                continue;
            case 3:
                restore(low);
                continue;
            default:
                break;
            }
            switch (low) {
            case 0x00: // nop
                break;
            case 0x02: // advance_loc1, 2, 4
                advance(reader.fixed(1));
                break;
            case 0x03:
                advance(reader.fixed(2));
                break;
            case 0x04:
                advance(reader.fixed(4));
                break;
            case 0x05: { // offset_extended
                const uint64_t reg = reader.uleb();
                saved(reg, static_cast<int64_t>(reader.uleb()), 'c');
                break;
            }
            case 0x06: // restore_extended
                restore(reader.uleb());
                break;
            case 0x07: // undefined
                state_.registers[reader.uleb()] = "u";
                break;
            case 0x08: // same_value
                state_.registers[reader.uleb()] = "s";
                break;
            case 0x09: { // register
                const uint64_t reg = reader.uleb();
                state_.registers[reg] = "r" + std::to_string(reader.uleb());
                break;
            }
            case 0x0a: // remember_state
                remembered_.push_back(state_);
                break;
            case 0x0b: // restore_state
                state_ = remembered_.back();
                remembered_.pop_back();
                break;
            case 0x0c: { // def_cfa
                const uint64_t reg = reader.uleb();
                cfa(reg, static_cast<int64_t>(reader.uleb()));
                break;
            }
            case 0x0d: // def_cfa_register
                cfa(reader.uleb(), state_.cfa_offset);
                break;
            case 0x0e: // def_cfa_offset
                cfa(state_.cfa_register, static_cast<int64_t>(reader.uleb()));
                break;
            case 0x0f: // def_cfa_expression
                reader.skip(reader.uleb());
                state_.has_register_cfa = false;
                break;
            case 0x10: { // expression
                const uint64_t reg = reader.uleb();
                reader.skip(reader.uleb());
                state_.registers[reg] = "exp";
                break;
            }
            case 0x11: { // offset_extended_sf
                const uint64_t reg = reader.uleb();
                saved(reg, reader.sleb(), 'c');
                break;
            }
            case 0x12: { // def_cfa_sf
                const uint64_t reg = reader.uleb();
                cfa(reg, reader.sleb() * cie_.data_factor);
                break;
            }
            case 0x13: // def_cfa_offset_sf
                cfa(state_.cfa_register, reader.sleb() * cie_.data_factor);
                break;
            case 0x14: { // val_offset
                const uint64_t reg = reader.uleb();
                saved(reg, static_cast<int64_t>(reader.uleb()), 'v');
                break;
            }
            case 0x16: { // val_expression
                const uint64_t reg = reader.uleb();
                reader.skip(reader.uleb());
                state_.registers[reg] = "vexp";
                break;
            }
            case 0x2e: // GNU_args_size
                reader.uleb();
                break;
            default:
                throw std::runtime_error("opcode " + std::to_string(opcode));
            }
        }
    }

    const Cie &cie_;
    Fde &fde_;
    uint64_t location_;
    State state_;
    State initial_;
    std::vector<State> remembered_;
};

// The FDE whose CIE pointer `reader` has just passed; it ends at `end`.
Fde read_fde(const std::vector<uint8_t> &section, const Cie &cie, Reader reader, size_t end, uint64_t address) {
    Fde fde;
    fde.start = encoded(reader, cie.fde_encoding, address);
    fde.end = fde.start + encoded(reader, cie.fde_encoding & 0x0f, address);
    fde.return_address_register = cie.return_address_register;
    fde.signal_frame = cie.augmentation.find('S') != std::string::npos;
    if (cie.augmentation.starts_with('z'))
        reader.skip(reader.uleb());
    Program program(cie, fde);
    program.run_initial(Reader(section, cie.instructions, cie.end));
    program.run_own(Reader(section, reader.at(), end));
    return fde;
}

} // namespace

std::vector<Fde> read_eh_frame(const std::vector<uint8_t> &section, uint64_t address) {
    std::vector<Fde> fdes;
    size_t offset = 0;
    while (offset + 8 <= section.size()) {
        Reader reader(section, offset, section.size());
        const uint64_t length = reader.fixed(4);
        if (length == 0)
            break;
        if (length == 0xffffffff)
            throw std::runtime_error("64-bit DWARF");
        offset = reader.at() + length;
        const size_t pointer_at = reader.at();
        const uint64_t pointer = reader.fixed(4);
        if (pointer != 0)
            fdes.push_back(read_fde(section, read_cie(section, pointer_at - pointer), reader, offset, address));
    }
    return fdes;
}

std::vector<Fde> read_debug_frame(const std::vector<uint8_t> &section) {
    std::vector<Fde> fdes;
    size_t offset = 0;
    while (offset + 8 <= section.size()) {
        Reader reader(section, offset, section.size());
        const uint64_t length = reader.fixed(4);
        offset = reader.at() + length;
        if (length == 0) // padding
            continue;
        if (length == 0xffffffff)
            throw std::runtime_error("64-bit DWARF");
        const uint64_t pointer = reader.fixed(4);
        if (pointer != 0xffffffff)
            fdes.push_back(read_fde(section, read_cie(section, pointer), reader, offset, 0));
    }
    return fdes;
}

} // namespace dwunw::reference
