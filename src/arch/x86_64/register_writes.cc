// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proves that a function's code does not write a register:
//
//     pxor %xmm0, %xmm1; movdqu %xmm1, (%rdi); ret    does not write rax: proved
//     xor %eax, %eax; ret                             writes rax
//     call helper; ret                                not proved: the helper may write rax
//
// Every instruction is decoded for its length and for the general registers that it writes (Intel SDM volume 2, chapter
// 2 and appendix A). An instruction that is not listed here makes the answer no. So does a call, and a jump out of the
// function: other code is not read.
//
// Bytes are decoded from the first one on. A jump into the middle of an instruction would execute other instructions.
// So every jump target, and every place where the function is known to be entered, must be the beginning of a decoded
// one.
//
// Proved by tests/unit/arch_x86_64_register_writes_test, against a disassembler on the code of whole libraries.
#include "arch/x86_64/arch.h"

#include <array>
#include <bitset>

namespace dwunw::arch::x86_64 {
namespace {

constexpr size_t kLargestFunction = 8192;
constexpr size_t kLongestInstruction = 15;

constexpr unsigned kEncodedRax = kEncoded[kRax];
constexpr unsigned kEncodedRcx = kEncoded[kRcx];
constexpr unsigned kEncodedRdx = kEncoded[kRdx];
constexpr unsigned kEncodedRsp = kEncoded[kRsp];
constexpr unsigned kEncodedRbp = kEncoded[kRbp];

// An opcode's writes of general registers.
enum class Effect : uint8_t {
    kUnknown,
    kNothing,    // writes no general register
    kWritesRm,   // the operand of ModRM.rm, where that is a register
    kWritesReg,  // the operand of ModRM.reg
    kWritesBoth, // either
    kWritesVvvv, // the operand of VEX.vvvv
};

class Instruction {
  public:
    explicit Instruction(std::span<const uint8_t> code)
        : code_(code.first(std::min(code.size(), kLongestInstruction))) {}

    // False if the instruction is not known, or the code ends within it.
    bool decode() {
        while (is_legacy_prefix(peek()))
            take_prefix(u8());
        if ((peek() & 0xf0) == 0x40) {
            rex_ = u8();
            has_rex_ = true;
        }
        const uint8_t opcode = u8();
        bool known = false;
        if (opcode == 0x0f)
            known = decode_0f();
        else if (opcode == 0xc4 || opcode == 0xc5 || opcode == 0x62)
            known = decode_vector(opcode);
        else
            known = decode_one_byte(opcode);
        return known && !overrun_;
    }

    size_t length() const { return at_; }
    bool writes(unsigned encoded) const { return (writes_ >> encoded & 1) != 0; }
    bool is_jump() const { return is_jump_; }
    int64_t distance() const { return distance_; } // from the instruction's end
    bool ends() const { return ends_; }            // the next instruction is not its continuation

  private:
    static bool is_legacy_prefix(uint8_t byte) {
        switch (byte) {
        case 0x66:
        case 0xf2:
        case 0xf3:
        case 0xf0: // lock
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
        case 0x64:
        case 0x65:
            return true;
        default:
            return false;
        }
    }
    void take_prefix(uint8_t byte) {
        operand_size_ |= byte == 0x66;
        repeat_ = byte == 0xf2 || byte == 0xf3 ? byte : repeat_;
    }

    uint8_t peek() const { return at_ < code_.size() ? code_[at_] : 0; }
    uint8_t u8() {
        overrun_ |= at_ >= code_.size();
        return at_ < code_.size() ? code_[at_++] : 0;
    }
    int64_t immediate(size_t size) {
        uint64_t value = 0;
        for (size_t i = 0; i < size; ++i)
            value |= uint64_t{u8()} << (8 * i);
        const unsigned unused = static_cast<unsigned>(64 - 8 * size);
        return size == 0 ? 0 : static_cast<int64_t>(value << unused) >> unused;
    }
    size_t word_immediate() const { return operand_size_ && (rex_ & 8) == 0 ? 2 : 4; }

    void write(unsigned encoded) { writes_ |= 1u << encoded; }
    // Without REX, the numbers 4 to 7 are the second bytes of the first four registers.
    void write_byte(unsigned encoded) {
        write(encoded);
        if (!has_rex_ && encoded < 8)
            write(encoded & 3);
    }
    unsigned in_opcode(uint8_t opcode) const { return (opcode & 7u) | (rex_ & 1u) << 3; }

    // ModRM, SIB and displacement.
    void mod_rm() {
        mod_rm_ = u8();
        const unsigned mod = mod_rm_ >> 6;
        const unsigned rm = mod_rm_ & 7u;
        if (mod == 3)
            return;
        size_t displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
        if (rm == 4) {
            const uint8_t sib = u8();
            if (mod == 0 && (sib & 7) == 5)
                displacement = 4;
        } else if (mod == 0 && rm == 5) {
            displacement = 4;
        }
        immediate(displacement);
    }
    bool rm_is_register() const { return mod_rm_ >> 6 == 3; }
    unsigned rm() const { return (mod_rm_ & 7u) | (rex_ & 1u) << 3; }
    unsigned reg() const { return (mod_rm_ >> 3 & 7u) | (rex_ & 4u) << 1; }
    unsigned extension() const { return mod_rm_ >> 3 & 7u; }

    bool apply(Effect effect, bool of_bytes = false) {
        const auto write_it = [&](unsigned encoded) { of_bytes ? write_byte(encoded) : write(encoded); };
        if ((effect == Effect::kWritesRm || effect == Effect::kWritesBoth) && rm_is_register())
            write_it(rm());
        if (effect == Effect::kWritesReg || effect == Effect::kWritesBoth)
            write_it(reg());
        if (effect == Effect::kWritesVvvv)
            write(vvvv_);
        return effect != Effect::kUnknown;
    }
    bool with_mod_rm(Effect effect, size_t immediate_size = 0, bool of_bytes = false) {
        mod_rm();
        immediate(immediate_size);
        return apply(effect, of_bytes);
    }
    bool jump(size_t size, bool always) {
        is_jump_ = true;
        ends_ = always;
        distance_ = immediate(size);
        return !operand_size_;
    }

    bool decode_one_byte(uint8_t opcode) {
        const bool of_bytes = (opcode & 1) == 0;
        if (opcode < 0x40) {
            const Effect compare_or = (opcode & 0x38) == 0x38 ? Effect::kNothing : Effect::kWritesRm;
            switch (opcode & 7) {
            case 0:
            case 1: // op Ev, Gv
                return with_mod_rm(compare_or, 0, of_bytes);
            case 2:
            case 3: // op Gv, Ev
                return with_mod_rm(compare_or == Effect::kNothing ? compare_or : Effect::kWritesReg, 0, of_bytes);
            case 4:
            case 5: // op rax, immediate
                immediate(of_bytes ? 1 : word_immediate());
                if (compare_or != Effect::kNothing)
                    write(kEncodedRax);
                return true;
            default:
                return false;
            }
        }
        if (opcode >= 0x50 && opcode <= 0x57) // push
            return true;
        if (opcode >= 0x58 && opcode <= 0x5f) { // pop
            write(in_opcode(opcode));
            return true;
        }
        if (opcode >= 0x70 && opcode <= 0x7f) // jcc
            return jump(1, false);
        if (opcode >= 0x90 && opcode <= 0x97) { // xchg with rax; nop
            if (in_opcode(opcode) != kEncodedRax) {
                write(in_opcode(opcode));
                write(kEncodedRax);
            }
            return true;
        }
        if (opcode >= 0xb0 && opcode <= 0xb7) { // mov immediate
            write_byte(in_opcode(opcode));
            immediate(1);
            return true;
        }
        if (opcode >= 0xb8 && opcode <= 0xbf) {
            write(in_opcode(opcode));
            immediate((rex_ & 8) != 0 ? 8 : word_immediate());
            return true;
        }
        switch (opcode) {
        case 0x63: // movsxd
        case 0x8d: // lea
            return with_mod_rm(Effect::kWritesReg);
        case 0x68: // push
            immediate(word_immediate());
            return true;
        case 0x6a:
            immediate(1);
            return true;
        case 0x69: // imul
            return with_mod_rm(Effect::kWritesReg, word_immediate());
        case 0x6b:
            return with_mod_rm(Effect::kWritesReg, 1);
        case 0x80: // add, or, …, cmp with an immediate
        case 0x81:
        case 0x83:
            mod_rm();
            immediate(opcode == 0x81 ? word_immediate() : 1);
            return apply(extension() == 7 ? Effect::kNothing : Effect::kWritesRm, of_bytes);
        case 0x84: // test
        case 0x85:
            return with_mod_rm(Effect::kNothing);
        case 0x86: // xchg
        case 0x87:
            return with_mod_rm(Effect::kWritesBoth, 0, of_bytes);
        case 0x88: // mov
        case 0x89:
            return with_mod_rm(Effect::kWritesRm, 0, of_bytes);
        case 0x8a:
        case 0x8b:
            return with_mod_rm(Effect::kWritesReg, 0, of_bytes);
        case 0x98: // cdqe
            write(kEncodedRax);
            return true;
        case 0x99: // cqo
            write(kEncodedRdx);
            return true;
        case 0xa8: // test
            immediate(1);
            return true;
        case 0xa9:
            immediate(word_immediate());
            return true;
        case 0xc0: // shifts and rotates
        case 0xc1:
            return with_mod_rm(Effect::kWritesRm, 1, of_bytes);
        case 0xd0:
        case 0xd1:
        case 0xd2:
        case 0xd3:
            return with_mod_rm(Effect::kWritesRm, 0, of_bytes);
        case 0xc2: // ret
            immediate(2);
            ends_ = true;
            return true;
        case 0xc3:
            ends_ = true;
            return true;
        case 0xc6: // mov with an immediate
        case 0xc7:
            mod_rm();
            immediate(opcode == 0xc6 ? 1 : word_immediate());
            return extension() == 0 && apply(Effect::kWritesRm, of_bytes);
        case 0xc9: // leave
            write(kEncodedRsp);
            write(kEncodedRbp);
            return true;
        case 0xe9: // jmp
            return jump(4, true);
        case 0xeb:
            return jump(1, true);
        case 0xf5: // flags
        case 0xf8:
        case 0xf9:
        case 0xfc:
        case 0xfd:
            return true;
        case 0xf6:
        case 0xf7:
            mod_rm();
            if (extension() <= 1) { // test
                immediate(opcode == 0xf6 ? 1 : word_immediate());
                return true;
            }
            if (extension() >= 4) { // mul, imul, div, idiv
                write(kEncodedRax);
                write(kEncodedRdx);
                return true;
            }
            return apply(Effect::kWritesRm, of_bytes); // not, neg
        case 0xfe:                                     // inc, dec
            mod_rm();
            return extension() <= 1 && apply(Effect::kWritesRm, of_bytes);
        case 0xff:
            mod_rm();
            if (extension() == 6) // push
                return true;
            return extension() <= 1 && apply(Effect::kWritesRm);
        default:
            return false;
        }
    }

    bool decode_0f() {
        const uint8_t opcode = u8();
        if (opcode == 0x38 || opcode == 0x3a) {
            const uint8_t third = u8();
            mod_rm();
            immediate(opcode == 0x3a ? 1 : 0);
            return opcode == 0x38 ? apply_0f38(third) : apply_0f3a(third);
        }
        if (opcode >= 0x80 && opcode <= 0x8f) // jcc
            return jump(4, false);
        if (opcode >= 0xc8 && opcode <= 0xcf) { // bswap
            write(in_opcode(opcode));
            return true;
        }
        if (opcode >= 0x40 && opcode <= 0x4f) // cmovcc
            return with_mod_rm(Effect::kWritesReg);
        if (opcode >= 0x90 && opcode <= 0x9f) // setcc
            return with_mod_rm(Effect::kWritesRm, 0, true);
        switch (opcode) {
        case 0x0b: // ud2
            ends_ = true;
            return true;
        case 0x0d: // prefetch
        case 0x18:
        case 0x19: // nop
        case 0x1c:
        case 0x1d:
        case 0x1f:
            return with_mod_rm(Effect::kNothing);
        case 0x1e: // nop; with F3, endbr64, and rdssp, which writes
            mod_rm();
            return repeat_ == 0 || mod_rm_ == 0xfa || mod_rm_ == 0xfb;
        case 0x77: // emms
            return true;
        case 0xa3: // bt
            return with_mod_rm(Effect::kNothing);
        case 0xa4: // shld, shrd
        case 0xac:
            return with_mod_rm(Effect::kWritesRm, 1);
        case 0xa5:
        case 0xad:
        case 0xab: // bts, btr, btc
        case 0xb3:
        case 0xbb:
            return with_mod_rm(Effect::kWritesRm);
        case 0xae: // fences, ldmxcsr; with a prefix, what writes the register
            mod_rm();
            return repeat_ == 0 && !operand_size_;
        case 0xaf: // imul
        case 0xb6: // movzx, movsx
        case 0xb7:
        case 0xbe:
        case 0xbf:
        case 0xb8: // popcnt
        case 0xbc: // bsf, bsr
        case 0xbd:
            return with_mod_rm(Effect::kWritesReg);
        case 0xb0: // cmpxchg
        case 0xb1:
            write(kEncodedRax);
            return with_mod_rm(Effect::kWritesRm, 0, opcode == 0xb0);
        case 0xba: // bt, bts, btr, btc with an immediate
            mod_rm();
            immediate(1);
            return extension() >= 4 && apply(extension() == 4 ? Effect::kNothing : Effect::kWritesRm);
        case 0xc0: // xadd
        case 0xc1:
            return with_mod_rm(Effect::kWritesBoth, 0, opcode == 0xc0);
        case 0xc3: // movnti
            return with_mod_rm(Effect::kNothing);
        default:
            break;
        }
        const Effect effect = in_vector_map_1(opcode);
        if (effect == Effect::kUnknown)
            return false;
        mod_rm();
        immediate(has_byte_in_map_1(opcode) ? 1 : 0);
        return apply(effect);
    }

    // 0F xx of MMX, SSE and AVX.
    Effect in_vector_map_1(uint8_t opcode) const {
        switch (opcode) {
        case 0x2c: // cvt(t)sd2si and the like
        case 0x2d:
        case 0x50: // movmskps
        case 0xc5: // pextrw
        case 0xd7: // pmovmskb
            return Effect::kWritesReg;
        case 0x7e: // movd, movq to a general register; with F3 to a vector register
            return repeat_ == 0xf3 ? Effect::kNothing : Effect::kWritesRm;
        default:
            break;
        }
        const bool known = (opcode >= 0x10 && opcode <= 0x17) || (opcode >= 0x28 && opcode <= 0x2f) ||
                           (opcode >= 0x51 && opcode <= 0x76) || (opcode >= 0x7c && opcode <= 0x7f) || opcode == 0xc2 ||
                           opcode == 0xc4 || opcode == 0xc6 || (opcode >= 0xd0 && opcode <= 0xfe);
        return known ? Effect::kNothing : Effect::kUnknown;
    }
    static bool has_byte_in_map_1(uint8_t opcode) {
        return (opcode >= 0x70 && opcode <= 0x73) || opcode == 0xc2 || (opcode >= 0xc4 && opcode <= 0xc6);
    }

    bool apply_0f38(uint8_t opcode) {
        switch (opcode) {
        case 0xf0: // movbe, crc32
        case 0xf1:
        case 0xf6: // adcx, adox
            return apply(Effect::kWritesReg);
        default:
            return apply(vector_map_2(opcode));
        }
    }
    static Effect vector_map_2(uint8_t opcode) {
        const bool known = opcode <= 0x48 || opcode == 0x4a || (opcode >= 0x4c && opcode <= 0x5b) ||
                           (opcode >= 0x60 && opcode <= 0x7f) || (opcode >= 0x83 && opcode <= 0xdf);
        return known ? Effect::kNothing : Effect::kUnknown;
    }
    bool apply_0f3a(uint8_t opcode) {
        if (opcode >= 0x14 && opcode <= 0x17) // pextrb, pextrw, pextrd, extractps
            return apply(Effect::kWritesRm);
        if (opcode >= 0x60 && opcode <= 0x63) { // pcmpestri and the like
            write(kEncodedRcx);
            return true;
        }
        return opcode <= 0xdf;
    }

    // VEX and EVEX. vvvv, R, X and B are stored inverted.
    bool decode_vector(uint8_t first) {
        if (operand_size_ || repeat_ != 0 || has_rex_)
            return false; // no such instruction
        unsigned map = 1;
        uint8_t last = 0;
        if (first == 0xc5) {
            last = u8();
            rex_ = (last & 0x80) == 0 ? 4 : 0;
        } else {
            const uint8_t second = u8();
            rex_ = static_cast<uint8_t>(~second >> 5 & 7);
            map = first == 0x62 ? second & 7 : second & 0x1f;
            last = u8();
            if (first == 0x62) {
                // These bits are fixed, except in instructions that are not known here.
                if ((second & 8) != 0 || (last & 4) == 0)
                    return false;
                u8();
            }
        }
        vvvv_ = ~last >> 3 & 15u;
        constexpr std::array<uint8_t, 4> kPrefix = {0, 0x66, 0xf3, 0xf2};
        repeat_ = kPrefix[last & 3];
        const bool evex = first == 0x62;
        const uint8_t opcode = u8();
        if (map == 1 && opcode == 0x77) // vzeroupper
            return !evex;
        if (map < 1 || map > 3)
            return false;
        mod_rm();
        immediate(map == 3 || (map == 1 && has_byte_in_map_1(opcode)) ? 1 : 0);
        if (map == 1)
            return evex ? apply_evex_1(opcode) : apply_vex_1(opcode);
        return map == 2 ? apply_vector_2(opcode, evex) : apply_vector_3(opcode, evex);
    }
    bool apply_vex_1(uint8_t opcode) {
        if (opcode == 0x93) // kmov to a general register
            return apply(Effect::kWritesReg);
        const bool on_masks = (opcode >= 0x41 && opcode <= 0x4b) || (opcode >= 0x90 && opcode <= 0x92) ||
                              opcode == 0x98 || opcode == 0x99;
        return on_masks || opcode == 0xae || apply(in_vector_map_1(opcode)); // AE: vldmxcsr, vstmxcsr
    }
    bool apply_evex_1(uint8_t opcode) {
        if (opcode == 0x78 || opcode == 0x79) // vcvttsd2usi, vcvtsd2usi and vectors' conversions
            return apply(Effect::kWritesReg);
        return opcode == 0x7a || opcode == 0x7b || apply(in_vector_map_1(opcode));
    }
    bool apply_vector_2(uint8_t opcode, bool evex) {
        if (opcode >= 0xf0) {
            if (evex)
                return false;
            switch (opcode) {
            case 0xf2: // andn
            case 0xf5: // bzhi, pdep, pext
            case 0xf7: // bextr, shlx, sarx, shrx
                return apply(Effect::kWritesReg);
            case 0xf3: // blsr, blsmsk, blsi
                return apply(Effect::kWritesVvvv);
            case 0xf6: // mulx
                return apply(Effect::kWritesVvvv) && apply(Effect::kWritesReg);
            default:
                return false;
            }
        }
        return apply(vector_map_2(opcode));
    }
    bool apply_vector_3(uint8_t opcode, bool evex) {
        if (!evex && opcode == 0xf0) // rorx
            return apply(Effect::kWritesReg);
        return apply_0f3a(opcode);
    }

    std::span<const uint8_t> code_;
    size_t at_ = 0;
    bool overrun_ = false;
    bool operand_size_ = false;
    uint8_t repeat_ = 0; // F2 or F3
    bool has_rex_ = false;
    uint8_t rex_ = 0; // W, R, X and B
    unsigned vvvv_ = 0;
    uint8_t mod_rm_ = 0;
    unsigned writes_ = 0;
    bool is_jump_ = false;
    bool ends_ = false;
    int64_t distance_ = 0;
};

} // namespace

bool leaves_alone(std::span<const uint8_t> code, uint8_t reg, std::span<const size_t> entered_at) {
    if (code.size() > kLargestFunction || reg >= kEncoded.size())
        return false;
    std::bitset<kLargestFunction> begins;
    std::bitset<kLargestFunction> reached;
    for (const size_t entry : entered_at) {
        if (entry >= code.size())
            return false;
        reached.set(entry);
    }
    bool ends = false;
    for (size_t at = 0; at < code.size();) {
        Instruction instruction(code.subspan(at));
        if (!instruction.decode() || instruction.writes(kEncoded[reg]))
            return false;
        begins.set(at);
        at += instruction.length();
        ends = instruction.ends();
        if (!instruction.is_jump())
            continue;
        const int64_t target = static_cast<int64_t>(at) + instruction.distance();
        if (target < 0 || target >= static_cast<int64_t>(code.size()))
            return false;
        reached.set(static_cast<size_t>(target));
    }
    return ends && (reached & ~begins).none();
}

} // namespace dwunw::arch::x86_64
