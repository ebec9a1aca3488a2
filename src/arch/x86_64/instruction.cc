// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Decodes x86-64 instructions for a walk over code without CFI (Intel SDM volume 2, chapter 2 and appendix A; XOP: AMD
// APM volume 6):
//
//     48 83 ec 18    sub $0x18, %rsp    4 bytes, to the next instruction, SP = SP − 0x18
//     48 89 04 24    mov %rax, (%rsp)   4 bytes, to the next instruction, SP and FP unchanged
//
// It answers three questions: how long, where to, and what becomes of rsp and rbp. It ignores all other operands.
//
// Tables give the length: which opcodes have a ModRM byte, and how large the immediate is. An instruction that names
// rsp or rbp as a general register which it may write counts as writing it, unless a list says that it only reads. The
// forms that compilers use to set frames up have an exact effect; after any other write the register is unknown. Vector
// instructions write general registers only if another list says so.
//
// Proved by tests/unit/arch_x86_64_instruction_test: each form by hand, and whole libraries against Zydis, for length,
// target and writes.
#include "arch/x86_64/arch.h"

#include <array>

namespace dwunw::arch::x86_64 {
namespace {

using Flow = Instruction::Flow;
using Effect = Instruction::Effect;

// One bit for each opcode.
struct OpcodeSet {
    std::array<uint64_t, 4> bits{};
    constexpr bool has(uint8_t opcode) const { return ((bits[opcode >> 6] >> (opcode & 63)) & 1) != 0; }
    constexpr OpcodeSet with(int first, int last) const {
        OpcodeSet result = *this;
        for (int opcode = first; opcode <= last; ++opcode)
            result.bits[static_cast<size_t>(opcode >> 6)] |= uint64_t{1} << (opcode & 63);
        return result;
    }
    constexpr OpcodeSet with(int opcode) const { return with(opcode, opcode); }
};

// Columns 0–3 of the arithmetic rows have a ModRM byte.
constexpr OpcodeSet arithmetic_rows() {
    OpcodeSet set;
    for (int row = 0; row < 0x40; row += 8)
        set = set.with(row, row + 3);
    return set;
}

constexpr OpcodeSet kModRm = arithmetic_rows()
                                 .with(0x63)
                                 .with(0x69)
                                 .with(0x6b)
                                 .with(0x80, 0x81)
                                 .with(0x83, 0x8f)
                                 .with(0xc0, 0xc1)
                                 .with(0xc6, 0xc7)
                                 .with(0xd0, 0xd3)
                                 .with(0xd8, 0xdf)
                                 .with(0xf6, 0xf7)
                                 .with(0xfe, 0xff);
// Opcodes that are invalid in 64-bit mode.
constexpr OpcodeSet kInvalid = OpcodeSet()
                                   .with(0x06, 0x07)
                                   .with(0x0e)
                                   .with(0x16, 0x17)
                                   .with(0x1e, 0x1f)
                                   .with(0x27)
                                   .with(0x2f)
                                   .with(0x37)
                                   .with(0x3f)
                                   .with(0x60, 0x61)
                                   .with(0x82)
                                   .with(0x9a)
                                   .with(0xce)
                                   .with(0xd4, 0xd6)
                                   .with(0xea);
constexpr OpcodeSet kImmediate8 = OpcodeSet()
                                      .with(0x6a, 0x6b)
                                      .with(0x80)
                                      .with(0x83)
                                      .with(0xa8)
                                      .with(0xb0, 0xb7)
                                      .with(0xc0, 0xc1)
                                      .with(0xc6)
                                      .with(0xcd)
                                      .with(0xe4, 0xe7);
// Immediates of four bytes, or of two with an operand-size prefix.
constexpr OpcodeSet kImmediate32 = OpcodeSet().with(0x68, 0x69).with(0x81).with(0xa9).with(0xc7);

// Opcodes behind 0f.
constexpr OpcodeSet kNoModRm0f = OpcodeSet()
                                     .with(0x05, 0x09)
                                     .with(0x0b)
                                     .with(0x0e)
                                     .with(0x30, 0x37)
                                     .with(0x77)
                                     .with(0x80, 0x8f)
                                     .with(0xa0, 0xa2)
                                     .with(0xa8, 0xaa)
                                     .with(0xc8, 0xcf);
// 20 to 23, to and from control registers, are privileged.
constexpr OpcodeSet kInvalid0f =
    OpcodeSet().with(0x04).with(0x0a).with(0x0c).with(0x20, 0x27).with(0x36).with(0x39).with(0x3b, 0x3f);
constexpr OpcodeSet kImmediate0f =
    OpcodeSet().with(0x0f).with(0x70, 0x73).with(0xa4).with(0xac).with(0xba).with(0xc2).with(0xc4, 0xc6);
// Writes the general register that ModRM.reg names.
constexpr OpcodeSet kWritesReg0f = OpcodeSet()
                                       .with(0x02, 0x03) // lar, lsl
                                       .with(0x2c, 0x2d) // cvttsd2si, cvtsd2si
                                       .with(0x40, 0x4f) // cmov
                                       .with(0x50)       // movmskps
                                       .with(0xaf)       // imul
                                       .with(0xb2)       // lss
                                       .with(0xb4, 0xb8) // lfs, lgs, movzx, popcnt
                                       .with(0xbc, 0xbf) // bsf, bsr, movsx
                                       .with(0xc0, 0xc1) // xadd
                                       .with(0xc5)       // pextrw
                                       .with(0xd7);      // pmovmskb
// Writes the general register that ModRM.rm names.
constexpr OpcodeSet kWritesRm0f = OpcodeSet()
                                      .with(0x00, 0x01) // sldt, str, smsw
                                      .with(0x18, 0x1f) // hints; 1e: rdssp
                                      .with(0x7e)       // movd
                                      .with(0x90, 0x9f) // setcc
                                      .with(0xa4, 0xa5) // shld
                                      .with(0xab, 0xae) // bts, shrd, rdfsbase
                                      .with(0xb0, 0xb1) // cmpxchg
                                      .with(0xb3)       // btr
                                      .with(0xba, 0xbb) // bts, btc
                                      .with(0xc0, 0xc1) // xadd
                                      .with(0xc7);      // rdrand, rdseed, rdpid

constexpr uint8_t kSp = 4; // as ModRM numbers them
constexpr uint8_t kFp = 5;

class Decoder {
  public:
    explicit Decoder(std::span<const uint8_t> code)
        : code_(code.size() > kMaxInstructionLength ? code.first(kMaxInstructionLength) : code) {}

    std::optional<Instruction> run() {
        if (!prefixes())
            return std::nullopt;
        const uint8_t opcode = byte();
        if (opcode == 0x0f)
            map_0f();
        else if (opcode == 0xc4 || opcode == 0xc5)
            vex(opcode == 0xc4);
        else if (opcode == 0x62)
            evex();
        else if (opcode == 0x8f && at_ < code_.size() && (code_[at_] & 0x1f) >= 8)
            xop();
        else
            one_byte(opcode);
        if (bad_ || at_ > code_.size())
            return std::nullopt;
        result_.length = static_cast<uint8_t>(at_);
        result_.target += result_.length; // was relative to the end until here
        return result_;
    }

  private:
    uint8_t byte() {
        if (at_ >= code_.size()) {
            bad_ = true;
            return 0;
        }
        return code_[at_++];
    }
    int32_t signed_bytes(size_t size) {
        uint32_t value = 0;
        for (size_t i = 0; i < size; ++i)
            value |= static_cast<uint32_t>(byte()) << (8 * i);
        if (size == 1)
            return static_cast<int8_t>(value);
        return size == 2 ? static_cast<int16_t>(value) : static_cast<int32_t>(value);
    }
    void skip(size_t size) {
        at_ += size;
        bad_ = bad_ || at_ > code_.size();
    }

    bool prefixes() {
        while (at_ < code_.size()) {
            const uint8_t prefix = code_[at_];
            if (prefix >= 0x40 && prefix <= 0x4f) {
                rex_ = prefix; // valid only directly before the opcode
            } else if (prefix == 0x66 || prefix == 0x67 || prefix == 0xf0 || prefix == 0xf2 || prefix == 0xf3 ||
                       prefix == 0x2e || prefix == 0x36 || prefix == 0x3e || prefix == 0x26 || prefix == 0x64 ||
                       prefix == 0x65) {
                rex_ = 0;
                operand16_ = operand16_ || prefix == 0x66;
                address32_ = address32_ || prefix == 0x67;
                repeat_ = prefix == 0xf2 || prefix == 0xf3 ? prefix : repeat_;
                segment_ = segment_ || prefix == 0x64 || prefix == 0x65;
            } else {
                return true;
            }
            ++at_;
        }
        return false;
    }
    bool rex_w() const { return (rex_ & 8) != 0; }
    bool rex_r() const { return (rex_ & 4) != 0; }
    bool rex_b() const { return (rex_ & 1) != 0; }
    bool short_operand() const { return operand16_ && !rex_w(); }

    // --- operands

    void mod_rm() {
        const uint8_t value = byte();
        mod_ = value >> 6;
        reg_ = static_cast<uint8_t>((value >> 3) & 7);
        rm_ = value & 7;
        if (mod_ == 3)
            return;
        bool indexed = false;
        uint8_t base = rm_;
        bool has_base = true;
        if (rm_ == 4) {
            const uint8_t sib = byte();
            base = sib & 7;
            indexed = ((sib >> 3) & 7) != 4 || (rex_ & 2) != 0;
            has_base = !(base == 5 && mod_ == 0);
        } else if (rm_ == 5 && mod_ == 0) {
            has_base = false; // rip
        }
        displacement_ = mod_ == 1 ? signed_bytes(1) : mod_ == 2 || !has_base ? signed_bytes(4) : 0;
        plain_base_ = has_base && !indexed && !rex_b() && !address32_ && !segment_ && (base == kSp || base == kFp);
        base_is_fp_ = base == kFp;
    }

    bool reg_is(uint8_t reg) const { return !rex_r() && reg_ == reg; }
    bool rm_is(uint8_t reg) const { return mod_ == 3 && !rex_b() && rm_ == reg; }
    // ah, ch, dh and bh have the numbers of spl, bpl, sil and dil without a REX prefix.
    bool byte_register_is_high() const { return rex_ == 0; }

    void lose(uint8_t reg) {
        if (reg != kSp && reg != kFp)
            return;
        const Effect effect = reg == kSp ? Effect::kLoseSp : Effect::kLoseFp;
        result_.effect = result_.effect == Effect::kNone || result_.effect == effect ? effect : Effect::kLose;
    }
    void writes_reg() {
        if (!rex_r())
            lose(reg_);
    }
    void writes_rm() {
        if (mod_ == 3 && !rex_b())
            lose(rm_);
    }
    void effect(Effect effect, bool from_fp, int32_t offset) {
        result_.effect = effect;
        result_.from_fp = from_fp;
        result_.offset = offset;
    }
    // Whether the operand is a whole general register.
    bool whole() const { return rex_w() && !operand16_; }

    // --- the one-byte opcodes

    void one_byte(uint8_t opcode) {
        if (kInvalid.has(opcode)) {
            bad_ = true;
            return;
        }
        if (kModRm.has(opcode))
            mod_rm();
        int32_t immediate = 0;
        if (kImmediate8.has(opcode) || (opcode < 0x40 && (opcode & 7) == 4))
            immediate = signed_bytes(1);
        else if (kImmediate32.has(opcode) || (opcode < 0x40 && (opcode & 7) == 5))
            immediate = signed_bytes(short_operand() ? 2 : 4);

        if (opcode < 0x40) {
            arithmetic(opcode);
            return;
        }
        switch (opcode & 0xf8) {
        case 0x50:
            push(!rex_b() && (opcode & 7) == kFp);
            return;
        case 0x58:
            pop(opcode & 7, rex_b());
            return;
        case 0x90: // xchg with rax
            if (!rex_b())
                lose(opcode & 7);
            return;
        case 0xb0:
            if (!rex_b() && !byte_register_is_high())
                lose(opcode & 7);
            return;
        case 0xb8:
            skip(rex_w() ? 8 : short_operand() ? 2 : 4);
            if (!rex_b())
                lose(opcode & 7);
            return;
        default:
            break;
        }
        if ((opcode & 0xf0) == 0x70 || (opcode >= 0xe0 && opcode <= 0xe3)) {
            result_.flow = Flow::kBranch;
            result_.target = signed_bytes(1);
            return;
        }
        switch (opcode) {
        case 0x63: // movsxd
        case 0x69: // imul
        case 0x6b:
            writes_reg();
            break;
        case 0x68:
        case 0x6a:
        case 0x9c: // pushf
            push(false);
            break;
        case 0x9d: // popf
            result_.effect = operand16_ ? Effect::kLoseSp : Effect::kPop;
            break;
        case 0x80:
        case 0x81:
        case 0x83:
            arithmetic_immediate(opcode, immediate);
            break;
        case 0x86: // xchg
            if (!byte_register_is_high()) {
                writes_reg();
                writes_rm();
            }
            break;
        case 0x87:
            writes_reg();
            writes_rm();
            break;
        case 0x88:
            if (!byte_register_is_high())
                writes_rm();
            break;
        case 0x89:
            store();
            break;
        case 0x8a:
            if (!byte_register_is_high())
                writes_reg();
            break;
        case 0x8b:
            load();
            break;
        case 0x8c: // mov from a segment register
            writes_rm();
            break;
        case 0x8d:
            lea();
            break;
        case 0x8f:
            pop_rm();
            break;
        case 0xa0:
        case 0xa1:
        case 0xa2:
        case 0xa3:
            skip(address32_ ? 4 : 8);
            break;
        case 0xc0:
        case 0xd0:
        case 0xd2:
        case 0xc6:
        case 0xfe:
            if (opcode == 0xc6 && mod_ == 3 && reg_ == 7) { // xabort
                bad_ = true;
                break;
            }
            if (!byte_register_is_high())
                writes_rm();
            break;
        case 0xc1:
        case 0xd1:
        case 0xd3:
            writes_rm();
            break;
        case 0xc7:
            if (mod_ == 3 && reg_ == 7) // xbegin
                bad_ = true;
            writes_rm();
            break;
        case 0xc2:
            result_.flow = Flow::kReturn;
            result_.offset = signed_bytes(2) & 0xffff;
            break;
        case 0xc3:
            result_.flow = Flow::kReturn;
            break;
        case 0xc8: // enter
            skip(3);
            result_.effect = Effect::kLose;
            break;
        case 0xc9:
            result_.effect = operand16_ ? Effect::kLose : Effect::kLeave;
            break;
        case 0xca: // far
            skip(2);
            result_.flow = Flow::kEnd;
            break;
        case 0xcb:
        case 0xcf: // iret
        case 0xcc: // int3
        case 0xf1: // int1
        case 0xf4: // hlt
            result_.flow = Flow::kEnd;
            break;
        case 0xcd: // int n
            result_.flow = Flow::kSystemCall;
            break;
        case 0xe8:
            result_.flow = Flow::kCall;
            result_.target = signed_bytes(4);
            break;
        case 0xe9:
            result_.flow = Flow::kJump;
            result_.target = signed_bytes(4);
            break;
        case 0xeb:
            result_.flow = Flow::kJump;
            result_.target = signed_bytes(1);
            break;
        case 0xf6:
        case 0xf7:
            if (reg_ <= 1)
                skip(opcode == 0xf6 ? 1 : short_operand() ? 2 : 4);
            if ((reg_ == 2 || reg_ == 3) && (opcode == 0xf7 || !byte_register_is_high())) // not, neg
                writes_rm();
            break;
        case 0xff:
            group_ff();
            break;
        default: // register operands are fixed ones, neither rsp nor rbp
            break;
        }
    }

    void arithmetic(uint8_t opcode) {
        constexpr uint8_t kCompare = 7;
        if (opcode >> 3 == kCompare)
            return;
        switch (opcode & 7) {
        case 0:
            if (!byte_register_is_high())
                writes_rm();
            break;
        case 1:
            writes_rm();
            break;
        case 2:
            if (!byte_register_is_high())
                writes_reg();
            break;
        case 3:
            writes_reg();
            break;
        default: // al and eax
            break;
        }
    }

    void arithmetic_immediate(uint8_t opcode, int32_t immediate) {
        constexpr uint8_t kAdd = 0;
        constexpr uint8_t kSub = 5;
        constexpr uint8_t kCompare = 7;
        if (reg_ == kCompare || (opcode == 0x80 && byte_register_is_high()))
            return;
        const bool moves = opcode != 0x80 && whole() && (reg_ == kAdd || (reg_ == kSub && immediate != INT32_MIN));
        if (moves && rm_is(kSp))
            effect(Effect::kSetSp, false, reg_ == kAdd ? immediate : -immediate);
        else if (moves && rm_is(kFp))
            effect(Effect::kSetFp, true, reg_ == kAdd ? immediate : -immediate);
        else
            writes_rm();
    }

    void store() {
        if (mod_ == 3) {
            move(rm_, rex_b(), reg_, rex_r());
        } else if (reg_is(kFp) && whole() && plain_base_) {
            effect(Effect::kStoreFp, base_is_fp_, displacement_);
        }
    }
    void load() {
        if (mod_ == 3)
            move(reg_, rex_r(), rm_, rex_b());
        else if (reg_is(kFp) && whole() && plain_base_)
            effect(Effect::kLoadFp, base_is_fp_, displacement_);
        else
            writes_reg();
    }
    void move(uint8_t to, bool to_extended, uint8_t from, bool from_extended) {
        if (to_extended)
            return;
        const bool exact = whole() && !from_extended && (from == kSp || from == kFp);
        if (exact && to == kSp)
            effect(Effect::kSetSp, from == kFp, 0);
        else if (exact && to == kFp)
            effect(Effect::kSetFp, from == kFp, 0);
        else
            lose(to);
    }
    void lea() {
        if (mod_ == 3) {
            bad_ = true;
        } else if (rex_w() && !operand16_ && plain_base_ && (reg_is(kSp) || reg_is(kFp))) {
            effect(reg_is(kSp) ? Effect::kSetSp : Effect::kSetFp, base_is_fp_, displacement_);
        } else {
            writes_reg();
        }
    }

    void push(bool of_fp) {
        result_.effect = operand16_ ? Effect::kLoseSp : Effect::kPush;
        result_.of_fp = of_fp;
    }
    void pop(uint8_t reg, bool extended) {
        result_.of_fp = !extended && reg == kFp;
        result_.effect = operand16_ || (!extended && reg == kSp) ? Effect::kLose : Effect::kPop;
    }
    void pop_rm() {
        if (reg_ != 0)
            bad_ = true;
        else if (mod_ == 3)
            pop(rm_, rex_b());
        else
            result_.effect = operand16_ ? Effect::kLoseSp : Effect::kPop;
    }
    void group_ff() {
        switch (reg_) {
        case 0: // inc, dec
        case 1:
            writes_rm();
            break;
        case 2:
            result_.flow = Flow::kIndirectCall;
            break;
        case 4:
            result_.flow = Flow::kIndirectJump;
            break;
        case 6:
            push(rm_is(kFp));
            break;
        default: // far, none
            result_.flow = Flow::kEnd;
            bad_ = reg_ == 7;
            break;
        }
    }

    // --- behind 0f

    void map_0f() {
        const uint8_t opcode = byte();
        if (opcode == 0x38 || opcode == 0x3a) {
            const uint8_t third = byte();
            mod_rm();
            if (opcode == 0x3a)
                skip(1);
            general_0f38_3a(opcode == 0x38, third);
            return;
        }
        if (kInvalid0f.has(opcode)) {
            bad_ = true;
            return;
        }
        if (!kNoModRm0f.has(opcode))
            mod_rm();
        if (kImmediate0f.has(opcode))
            skip(1);
        if (opcode == 0x78 && (operand16_ || repeat_ == 0xf2)) // extrq, insertq
            skip(2);
        switch (opcode) {
        case 0x05: // syscall
        case 0x34: // sysenter
            result_.flow = Flow::kSystemCall;
            return;
        case 0x07: // sysret
        case 0x35: // sysexit
        case 0x0b: // ud2
        case 0xb9: // ud1
        case 0xff: // ud0
        case 0xaa: // rsm
            result_.flow = Flow::kEnd;
            return;
        case 0xa0: // push fs, gs
        case 0xa8:
            push(false);
            return;
        case 0xa1:
        case 0xa9:
            result_.effect = operand16_ ? Effect::kLoseSp : Effect::kPop;
            return;
        case 0x1e:
            // endbr64 and the hints write nothing; rdssp writes.
            if (repeat_ == 0xf3 && mod_ == 3 && reg_ == 1)
                writes_rm();
            return;
        case 0x01:
            // vmcall and its kind have neither operand; smsw writes one.
            if (reg_ == 4)
                writes_rm();
            return;
        default:
            break;
        }
        if ((opcode & 0xf0) == 0x80) {
            result_.flow = Flow::kBranch;
            result_.target = signed_bytes(4);
            return;
        }
        if ((opcode & 0xf8) == 0xc8) { // bswap
            if (!rex_b())
                lose(opcode & 7);
            return;
        }
        write_0f(opcode);
    }

    void write_0f(uint8_t opcode) {
        const bool of_bytes = (opcode & 0xf0) == 0x90 || opcode == 0xb0 || opcode == 0xc0;
        if (of_bytes && byte_register_is_high())
            return;
        if (opcode == 0xba && reg_ == 4) // bt
            return;
        if (opcode >= 0x18 && opcode <= 0x1f) // prefetch, nop
            return;
        if (opcode == 0xae && (repeat_ != 0xf3 || reg_ > 1)) // fences, fxsave; rdfsbase and rdgsbase write
            return;
        if (opcode == 0x7e && repeat_ == 0xf3) // movq between vector registers
            return;
        if (opcode == 0xc7 && mod_ != 3)
            return;
        if ((opcode == 0x2c || opcode == 0x2d) && repeat_ == 0) // to a vector register
            return;
        if (kWritesReg0f.has(opcode))
            writes_reg();
        if (kWritesRm0f.has(opcode))
            writes_rm();
    }

    // crc32, movbe, adcx, adox; pextrb, pextrw, pextrd, extractps.
    void general_0f38_3a(bool is_38, uint8_t opcode) {
        if (is_38 && (opcode == 0xf0 || opcode == 0xf1 || opcode == 0xf6))
            writes_reg();
        else if (!is_38 && opcode >= 0x14 && opcode <= 0x17)
            writes_rm();
    }

    // --- VEX, EVEX and XOP

    // The bits of a REX prefix, which VEX, EVEX and XOP store inverted.
    void set_rex(uint8_t inverted_rxb, bool w) {
        rex_ = static_cast<uint8_t>(0x40 | (~(inverted_rxb >> 5) & 7) | (w ? 8 : 0));
    }

    void vex(bool long_form) {
        uint8_t map = 1;
        uint8_t last = 0;
        if (long_form) {
            const uint8_t first = byte();
            last = byte();
            set_rex(first, (last & 0x80) != 0);
            map = first & 0x1f;
        } else {
            last = byte();
            // The short form has only R, in the same position as in the long form.
            set_rex(static_cast<uint8_t>((last & 0x80) | 0x60), false);
        }
        const uint8_t vvvv = ~(last >> 3) & 15;
        vector(map, last & 3, vvvv, false);
    }
    void evex() {
        const uint8_t first = byte();
        const uint8_t second = byte();
        skip(1);
        set_rex(first, (second & 0x80) != 0);
        if (mapless(first & 7)) {
            bad_ = true;
            return;
        }
        vector(first & 7, second & 3, ~(second >> 3) & 15, true);
    }
    static bool mapless(uint8_t map) { return map == 0 || map == 4 || map == 7; }
    void xop() {
        const uint8_t first = byte();
        const uint8_t last = byte();
        set_rex(first, (last & 0x80) != 0);
        const uint8_t map = first & 0x1f;
        byte();
        mod_rm();
        if (map == 8)
            skip(1);
        else if (map == 10)
            skip(4);
        else if (map != 9)
            bad_ = true;
        // Bit manipulation (TBM) writes the register of vvvv or of reg; it does not matter which.
        if (map >= 9) {
            writes_reg();
            lose(~(last >> 3) & 15);
            writes_rm();
        }
    }

    // `prefix`: 0 none, 1 66, 2 f3, 3 f2.
    void vector(uint8_t map, uint8_t prefix, uint8_t vvvv, bool is_evex) {
        const uint8_t opcode = byte();
        if (map == 1 && opcode == 0x77 && !is_evex) // vzeroupper
            return;
        if (map == 1 && (opcode & 0xf0) == 0x80) {
            bad_ = true;
            return;
        }
        mod_rm();
        switch (map) {
        case 1:
            if (kImmediate0f.has(opcode) && opcode != 0x0f)
                skip(1);
            if ((opcode == 0x2c || opcode == 0x2d) && prefix >= 2)
                writes_reg();
            else if ((opcode == 0x78 || opcode == 0x79) && is_evex) // vcvttsd2usi, vcvtsd2usi
                writes_reg();
            else if (opcode == 0x50 || opcode == 0xc5 || opcode == 0xd7)
                writes_reg();
            else if (opcode == 0x93 && !is_evex) // kmov to a general register
                writes_reg();
            else if (opcode == 0x7e && prefix == 1)
                writes_rm();
            break;
        case 2:
            if (opcode >= 0xf2 && opcode <= 0xf7 && !is_evex) { // BMI
                writes_reg();
                if (opcode == 0xf3 || opcode == 0xf6)
                    lose(vvvv);
            }
            break;
        case 3:
            skip(1);
            if (opcode >= 0x14 && opcode <= 0x17)
                writes_rm();
            else if (opcode == 0xf0 && !is_evex) // rorx
                writes_reg();
            break;
        case 5: // half precision; 2c, 2d, 78, 79: to a general register
            if (opcode == 0x2c || opcode == 0x2d || opcode == 0x78 || opcode == 0x79)
                writes_reg();
            else if (opcode == 0x7e)
                writes_rm();
            break;
        case 6:
            break;
        default:
            bad_ = true;
            break;
        }
    }

    std::span<const uint8_t> code_;
    size_t at_ = 0;
    bool bad_ = false;
    uint8_t rex_ = 0;
    bool operand16_ = false;
    bool address32_ = false;
    bool segment_ = false;
    uint8_t repeat_ = 0;
    uint8_t mod_ = 0;
    uint8_t reg_ = 0;
    uint8_t rm_ = 0;
    int32_t displacement_ = 0;
    bool plain_base_ = false; // the operand is displacement_(%rsp) or displacement_(%rbp)
    bool base_is_fp_ = false;
    Instruction result_;
};

} // namespace

std::optional<Instruction> decode(std::span<const uint8_t> code) { return Decoder(code).run(); }

} // namespace dwunw::arch::x86_64
