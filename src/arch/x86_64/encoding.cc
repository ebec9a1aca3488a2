// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Takes an instruction apart (Intel SDM volume 2, chapter 2; XOP: AMD APM volume 6):
//
//     [66 67 f0 f2 f3 26 2e 36 3e 64 65]… [REX] [0f [38 | 3a]] opcode [ModRM [SIB] [displacement]] [immediate]
//     VEX    c4 or c5, one or two bytes  ⎫
//     EVEX   62, three bytes             ⎬      opcode [ModRM …] [immediate]
//     XOP    8f, two bytes               ⎭
//
// The opcode maps say what follows the opcode. Bytes behind the end of the code are read as zero, and counted: an
// instruction that is longer than its code, or than 15 bytes, is none.
//
// Proved by tests/unit/arch_x86_64_encoding_test: the parts by hand, and lengths against Zydis, for every opcode
// of every map and for random bytes.
#include "arch/x86_64/encoding.h"

#include "arch/x86_64/arch.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

namespace dwunw::arch::x86_64 {
namespace {

using Form = Encoding::Form;

class Reader {
  public:
    Reader(std::span<const uint8_t> code, Encoding &out)
        : code_(code.first(std::min(code.size(), kMaxInstructionLength))), out_(out) {}

    bool run() {
        out_.traits = prefixes();
        out_.opcode = u8();
        if ((out_.traits & kEscape) != 0) {
            const OpcodeMap *map = escape();
            if (map == nullptr)
                return false;
            out_.traits = (*map)[out_.opcode];
        }
        if ((out_.traits & kUndefined) != 0)
            return false;
        if ((out_.traits & kModRm) != 0)
            mod_rm();
        if ((out_.traits & kPartlyUndefined) != 0 && is_undefined())
            return false;
        immediate();
        out_.length = static_cast<uint8_t>(at_);
        return at_ <= code_.size();
    }

  private:
    uint8_t peek() const { return at_ < code_.size() ? code_[at_] : 0; }
    uint8_t u8() {
        const uint8_t value = peek();
        ++at_;
        return value;
    }
    // A signed integer, with its sign.
    template <typename T> int64_t number() {
        std::make_unsigned_t<T> value = 0;
        if (at_ + sizeof(T) <= code_.size())
            std::memcpy(&value, code_.data() + at_, sizeof(T));
        at_ += sizeof(T);
        return static_cast<T>(value);
    }

    // Returns the traits of the byte behind them.
    Traits prefixes() {
        for (;; ++at_) {
            const uint8_t prefix = peek();
            const Traits traits = kOneByte[prefix];
            if ((traits & kPrefix) == 0)
                return traits;
            out_.idle_rex |= out_.rex != 0;
            out_.rex = 0;
            if ((prefix & 0xf0) == 0x40)
                out_.rex = prefix;
            else if (prefix == 0x66)
                out_.operand16 = true;
            else if (prefix == 0x67)
                out_.address32 = true;
            else if (prefix == 0x64 || prefix == 0x65)
                out_.segment = true;
            else if (prefix == 0xf2 || prefix == 0xf3)
                out_.repeat = prefix;
        }
    }

    // The map that the byte in `opcode` leads to, and the opcode in that map; nullptr: no such map.
    const OpcodeMap *escape() {
        switch (out_.opcode) {
        case 0x0f:
            return behind_0f();
        case 0xc4:
        case 0xc5:
            return vex(out_.opcode == 0xc4);
        case 0x62:
            return evex();
        default: // 8f: the ModRM of a pop has no such bits
            return (peek() & 0x1f) >= 8 ? xop() : &kOneByte;
        }
    }
    const OpcodeMap *behind_0f() {
        out_.opcode = u8();
        out_.map = 1;
        if (out_.opcode != 0x38 && out_.opcode != 0x3a)
            return &k0f;
        out_.map = out_.opcode == 0x38 ? 2 : 3;
        out_.opcode = u8();
        return out_.map == 2 ? &k0f38 : &k0f3a;
    }
    const OpcodeMap *vex(bool long_form) {
        // The short form has only R, in the same place.
        const uint8_t first = long_form ? u8() : static_cast<uint8_t>((peek() & 0x80) | 0x61);
        const uint8_t last = u8();
        return vector(Form::kVex, first, last, long_form && (last & 0x80) != 0, first & 0x1f);
    }
    const OpcodeMap *evex() {
        const uint8_t first = u8();
        const uint8_t second = u8();
        u8();
        out_.apx = (first & 8) != 0 || (second & 4) == 0;
        return vector(Form::kEvex, first, second, (second & 0x80) != 0, first & 7);
    }
    const OpcodeMap *xop() {
        const uint8_t first = u8();
        const uint8_t last = u8();
        return vector(Form::kXop, first, last, (last & 0x80) != 0, first & 0x1f);
    }
    // `first` has R, X and B in its top bits and `last` has vvvv, all inverted; and the prefix that belongs to the
    // opcode.
    const OpcodeMap *vector(Form form, uint8_t first, uint8_t last, bool w, uint8_t map) {
        if (out_.rex != 0 || out_.operand16 || out_.repeat != 0) // undefined
            return nullptr;
        out_.form = form;
        out_.map = map;
        out_.rex = static_cast<uint8_t>(0x40 | (~first >> 5 & 7) | (w ? 8 : 0));
        out_.vvvv = ~(last >> 3) & 15;
        constexpr std::array<uint8_t, 4> kRepeat = {0, 0, 0xf3, 0xf2};
        out_.repeat = kRepeat[last & 3];
        out_.operand16 = (last & 3) == 1;
        out_.opcode = u8();
        return form == Form::kXop ? xop_map(map) : vector_map(map);
    }

    void mod_rm() {
        const uint8_t value = u8();
        const uint8_t b = static_cast<uint8_t>((out_.rex & 1) << 3);
        const uint8_t rm = value & 7;
        out_.mod = (out_.traits & kOnlyRegisters) != 0 ? Encoding::kRegisterMode : value >> 6;
        out_.reg = static_cast<uint8_t>((value >> 3 & 7) | (out_.rex & 4) << 1);
        out_.rm = rm | b;
        if (out_.rm_is_register())
            return;
        uint8_t base = rm;
        bool has_base = true;
        if (rm == 4) {
            const uint8_t sib = u8();
            base = sib & 7;
            out_.has_index = (sib >> 3 & 7) != 4 || (out_.rex & 2) != 0;
            has_base = base != 5 || out_.mod != 0;
        } else if (rm == 5 && out_.mod == 0) {
            has_base = false; // rip
        }
        if (has_base)
            out_.base = base | b;
        if (out_.mod == 1)
            out_.displacement = static_cast<int32_t>(number<int8_t>());
        else if (out_.mod == 2 || !has_base)
            out_.displacement = static_cast<int32_t>(number<int32_t>());
    }

    // Whether ModRM makes the opcode undefined.
    bool is_undefined() const {
        if (out_.form == Form::kEvex) // 77
            return out_.opcode == 0x77;
        if (out_.form == Form::kVex) // vzeroupper, or blsr, blsmsk and blsi
            return out_.map == 2 && (out_.extension() == 0 || out_.extension() > 3);
        switch (out_.opcode) {
        case 0x8d: // lea of a register
            return out_.rm_is_register();
        case 0x8f: // pop
            return out_.extension() != 0;
        case 0xba: // bt and its kind; behind 0F
            return out_.extension() < 4;
        case 0xfe: // inc, dec
            return out_.extension() > 1;
        default: // ff
            return out_.extension() == 7;
        }
    }

    void immediate() {
        size_t size = (out_.traits & kImmediateMask) >> kImmediateShift;
        if (size == 0)
            return;
        if (size > 4)
            size = special_immediate();
        switch (size) {
        case 1:
            out_.immediate = number<int8_t>();
            break;
        case 2:
            out_.immediate = number<int16_t>();
            break;
        case 4:
            out_.immediate = number<int32_t>();
            break;
        case 8:
            out_.immediate = number<int64_t>();
            break;
        default:
            at_ += size;
            break;
        }
    }
    size_t special_immediate() const {
        const size_t operand = out_.operand16 && !out_.rex_w() ? 2 : 4;
        switch (out_.traits & kImmediateMask) {
        case kImmediateWhole:
            return out_.rex_w() ? 8 : operand;
        case kImmediateAddress:
            return out_.address32 ? 4 : 8;
        case kImmediateOfTest:
            return out_.extension() > 1 ? 0 : (out_.traits & kOfBytes) != 0 ? 1 : operand;
        case kImmediateOfExtrq:
            return out_.operand16 || out_.repeat == 0xf2 ? 2 : 0;
        default: // kImmediateOperand
            return operand;
        }
    }

    std::span<const uint8_t> code_;
    size_t at_ = 0;
    Encoding &out_;
};

} // namespace

Action Encoding::action_of_ff() const {
    switch (extension()) {
    case 2:
        return Action::kIndirectCall;
    case 3:
        return Action::kFarCall;
    case 4:
        return Action::kIndirectJump;
    case 5:
        return Action::kFarJump;
    case 6:
        return Action::kPush;
    default: // inc, dec
        return Action::kNothing;
    }
}

bool read_encoding(std::span<const uint8_t> code, Encoding &out) { return Reader(code, out).run(); }

} // namespace dwunw::arch::x86_64
