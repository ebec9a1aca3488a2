// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Lengths need the whole instruction set: prefixes, opcode maps, ModRM and immediates. Meanings need only the writes of
// SP and the changes of the pc.
//
// Proved by tests/unit/arch_x86_64_sp_instruction_test: each kind by hand, and lengths and writes of SP against Zydis
// over the code of whole libraries.
#include "arch/x86_64/sp_instruction.h"

#include "arch/x86_64/arch.h"

#include <algorithm>
#include <cstring>

namespace dwunw::arch::x86_64 {
namespace {

using Kind = SpInstruction::Kind;

// The processor's own limit.
constexpr size_t kMaxLength = 15;
// The number of SP in ModRM, SIB and opcodes. With a REX bit, the same number is r12.
constexpr uint8_t kSp = 4;
constexpr int64_t kWord = 8;

enum class Map : uint8_t { kOne, k0f, k0f38, k0f3a, kOther };

class Decoder {
  public:
    explicit Decoder(std::span<const uint8_t> code) : code_(code.first(std::min(code.size(), kMaxLength))) {}

    SpInstruction decode() {
        if (!read_prefixes() || !read_opcode())
            return {};
        const bool has_modrm = needs_modrm();
        if (invalid_ || (has_modrm && !read_modrm()))
            return {};
        immediate_at_ = at_;
        const size_t immediate = immediate_size();
        if (invalid_ || code_.size() - at_ < immediate)
            return {};
        at_ += immediate;
        SpInstruction result;
        result.length = static_cast<uint8_t>(at_);
        result.kind = Kind::kOther;
        if (!vector_)
            classify(result);
        return result;
    }

  private:
    // Appendix A: legacy prefixes in any order, then REX.
    bool read_prefixes() {
        for (; at_ < code_.size(); ++at_) {
            switch (code_[at_]) {
            case 0x66:
                operand_size_ = true;
                continue;
            case 0x67:
                address_size_ = true;
                continue;
            case 0xf2:
            case 0xf3:
            case 0xf0:
            case 0x26:
            case 0x2e:
            case 0x36:
            case 0x3e:
            case 0x64:
            case 0x65:
                continue;
            default:
                break;
            }
            break;
        }
        if (at_ < code_.size() && (code_[at_] & 0xf0) == 0x40)
            rex_ = code_[at_++];
        return at_ < code_.size();
    }

    bool take(uint8_t *byte) {
        if (at_ >= code_.size())
            return false;
        *byte = code_[at_++];
        return true;
    }

    bool read_opcode() {
        if (!take(&opcode_))
            return false;
        uint8_t first = 0;
        switch (opcode_) {
        case 0x0f:
            if (!take(&opcode_))
                return false;
            map_ = Map::k0f;
            if (opcode_ != 0x38 && opcode_ != 0x3a)
                return true;
            map_ = opcode_ == 0x38 ? Map::k0f38 : Map::k0f3a;
            return take(&opcode_);
        case 0xc5: // VEX of two bytes
            return take(&first) && take_vector_opcode(1);
        case 0xc4: // VEX of three
            return take(&first) && skip(1) && take_vector_opcode(first & 0x1f);
        case 0x62: // EVEX
            return take(&first) && skip(2) && take_vector_opcode(first & 0x07);
        case 0x8f: // XOP, unless it is a pop: its map number is at least 8, where ModRM has the pop's zero
            if (at_ >= code_.size() || (code_[at_] & 0x38) == 0)
                return true;
            xop_ = true;
            return take(&first) && skip(1) && take_vector_opcode(first & 0x1f);
        default:
            return true;
        }
    }
    bool skip(size_t bytes) {
        if (code_.size() - at_ < bytes)
            return false;
        at_ += bytes;
        return true;
    }
    bool take_vector_opcode(unsigned map) {
        vector_ = true;
        if (xop_) {
            xop_map_ = map;
            map_ = Map::kOther;
            return map >= 8 && map <= 10 && take(&opcode_);
        }
        switch (map) {
        case 1:
            map_ = Map::k0f;
            break;
        case 2:
            map_ = Map::k0f38;
            break;
        case 3:
            map_ = Map::k0f3a;
            break;
        case 5:
        case 6:
            map_ = Map::kOther; // AVX512-FP16: no immediates
            break;
        default:
            return false;
        }
        return take(&opcode_);
    }

    bool needs_modrm() {
        if (vector_)
            return map_ != Map::k0f || opcode_ != 0x77; // vzeroupper
        if (map_ == Map::k0f38 || map_ == Map::k0f3a)
            return true;
        return map_ == Map::k0f ? needs_modrm_0f() : needs_modrm_one();
    }
    bool needs_modrm_one() {
        const uint8_t op = opcode_;
        if (op < 0x40) {
            invalid_ = (op & 7) > 5;
            return (op & 7) < 4;
        }
        switch (op) {
        case 0x60:
        case 0x61:
        case 0x82:
        case 0x9a:
        case 0xce:
        case 0xd4:
        case 0xd5:
        case 0xd6:
        case 0xea:
            invalid_ = true;
            return false;
        case 0x63:
        case 0x69:
        case 0x6b:
        case 0xc0:
        case 0xc1:
        case 0xc6:
        case 0xc7:
        case 0xf6:
        case 0xf7:
        case 0xfe:
        case 0xff:
            return true;
        default:
            return (op & 0xf0) == 0x80 || (op >= 0xd0 && op <= 0xd3) || (op >= 0xd8 && op <= 0xdf);
        }
    }
    bool needs_modrm_0f() {
        const uint8_t op = opcode_;
        switch (op) {
        case 0x04:
        case 0x0a:
        case 0x0c:
        case 0x24:
        case 0x25:
        case 0x26:
        case 0x27:
        case 0x36:
        case 0x39:
        case 0x3b:
        case 0x3c:
        case 0x3d:
        case 0x3e:
        case 0x3f:
            invalid_ = true;
            return false;
        case 0x05:
        case 0x06:
        case 0x07:
        case 0x08:
        case 0x09:
        case 0x0b:
        case 0x0e:
        case 0x77:
        case 0xa0:
        case 0xa1:
        case 0xa2:
        case 0xa8:
        case 0xa9:
        case 0xaa:
            return false;
        default:
            return !((op >= 0x30 && op <= 0x37) || (op & 0xf0) == 0x80 || (op >= 0xc8 && op <= 0xcf));
        }
    }

    bool read_modrm() {
        uint8_t modrm = 0;
        if (!take(&modrm))
            return false;
        mod_ = modrm >> 6;
        reg_ = modrm >> 3 & 7;
        rm_ = modrm & 7;
        // Moves to and from control and debug registers use registers for every value of mod.
        if (mod_ == 3 || (!vector_ && map_ == Map::k0f && opcode_ >= 0x20 && opcode_ <= 0x23)) {
            mod_ = 3;
            return true;
        }
        if (rm_ == 4 && !take(&sib_))
            return false;
        displacement_at_ = at_;
        if (mod_ == 1)
            displacement_size_ = 1;
        else if (mod_ == 2 || (mod_ == 0 && (rm_ == 5 || (rm_ == 4 && (sib_ & 7) == 5))))
            displacement_size_ = 4;
        return skip(displacement_size_);
    }

    size_t full_immediate() const { return operand_size_ && !is_wide() ? 2 : 4; }
    size_t immediate_size() const {
        if (xop_)
            return xop_map_ == 8 ? 1 : xop_map_ == 10 ? 4 : 0;
        switch (map_) {
        case Map::k0f3a:
            return 1;
        case Map::k0f:
            return immediate_size_0f();
        case Map::kOne:
            return immediate_size_one();
        default:
            return 0;
        }
    }
    size_t immediate_size_0f() const {
        switch (opcode_) {
        case 0x0f: // 3DNow!: the opcode stands last
        case 0x70:
        case 0x71:
        case 0x72:
        case 0x73:
        case 0xa4:
        case 0xac:
        case 0xba:
        case 0xc2:
        case 0xc4:
        case 0xc5:
        case 0xc6:
            return 1;
        default:
            return !vector_ && (opcode_ & 0xf0) == 0x80 ? 4 : 0;
        }
    }
    size_t immediate_size_one() const {
        const uint8_t op = opcode_;
        if (op < 0x40)
            return (op & 7) == 4 ? 1 : (op & 7) == 5 ? full_immediate() : 0;
        if ((op & 0xf0) == 0x70 || (op & 0xf8) == 0xb0 || (op >= 0xe0 && op <= 0xe7))
            return 1;
        if ((op & 0xf8) == 0xb8)
            return is_wide() ? 8 : full_immediate();
        switch (op) {
        case 0x68:
        case 0x69:
        case 0x81:
        case 0xa9:
        case 0xc7:
            return full_immediate();
        case 0xe8:
        case 0xe9:
            return 4;
        case 0x6a:
        case 0x6b:
        case 0x80:
        case 0x83:
        case 0xa8:
        case 0xc0:
        case 0xc1:
        case 0xc6:
        case 0xcd:
        case 0xeb:
            return 1;
        case 0xa0:
        case 0xa1:
        case 0xa2:
        case 0xa3:
            return address_size_ ? 4 : 8;
        case 0xc2:
        case 0xca:
            return 2;
        case 0xc8:
            return 3;
        case 0xf6:
            return reg_ < 2 ? 1 : 0;
        case 0xf7:
            return reg_ < 2 ? full_immediate() : 0;
        default:
            return 0;
        }
    }

    bool is_wide() const { return (rex_ & 8) != 0; }
    bool reg_is_sp() const { return reg_ == kSp && (rex_ & 4) == 0; }
    bool rm_is_sp() const { return mod_ == 3 && rm_ == kSp && (rex_ & 1) == 0; }

    int64_t signed_at(size_t at, size_t size) const {
        if (size == 1)
            return static_cast<int8_t>(code_[at]);
        if (size == 2) {
            int16_t value = 0;
            std::memcpy(&value, code_.data() + at, sizeof(value));
            return value;
        }
        int32_t value = 0;
        std::memcpy(&value, code_.data() + at, sizeof(value));
        return value;
    }
    int64_t immediate() const { return signed_at(immediate_at_, at_ - immediate_at_); }
    int64_t pushed() const { return operand_size_ && !is_wide() ? 2 : kWord; }

    void classify(SpInstruction &out) const {
        if (map_ == Map::kOne)
            classify_one(out);
        else if (map_ == Map::k0f)
            classify_0f(out);
        else if (map_ == Map::k0f38 && (opcode_ == 0xf0 || opcode_ == 0xf1 || opcode_ == 0xf6))
            replaces_if(out, reg_is_sp()); // movbe, crc32, adcx, adox
    }

    static void replaces_if(SpInstruction &out, bool condition) {
        if (condition)
            out.kind = Kind::kReplaces;
    }
    static void adds(SpInstruction &out, int64_t value) {
        out.kind = Kind::kAdds;
        out.value = value;
    }

    void classify_one(SpInstruction &out) const {
        const uint8_t op = opcode_;
        if (op < 0x40) { // add or adc sbb and sub xor cmp: r/m r, r r/m; al or ax with an immediate
            const bool compares = op >= 0x38;
            if (!compares && (op & 7) < 4)
                replaces_if(out, (op & 2) != 0 ? reg_is_sp() && reg_counts() : rm_is_sp() && reg_counts());
            return;
        }
        switch (op & 0xf8) {
        case 0x50:
            adds(out, -pushed());
            return;
        case 0x58:
            if ((op & 7) == kSp && (rex_ & 1) == 0)
                out.kind = Kind::kReplaces;
            else
                adds(out, pushed());
            return;
        case 0x90: // xchg with rax
        case 0xb8: // mov
            replaces_if(out, (op & 7) == kSp && (rex_ & 1) == 0);
            return;
        case 0xb0:
            replaces_if(out, (op & 7) == kSp && (rex_ & 1) == 0 && rex_ != 0);
            return;
        default:
            break;
        }
        if ((op & 0xf0) == 0x70 || (op >= 0xe0 && op <= 0xe3)) {
            out.kind = Kind::kBranches;
            out.value = immediate();
            return;
        }
        switch (op) {
        case 0x63: // movsxd
        case 0x69: // imul
        case 0x6b:
            replaces_if(out, reg_is_sp());
            return;
        case 0x68:
        case 0x6a:
            adds(out, -pushed());
            return;
        case 0x80:
        case 0x81:
        case 0x83:
            classify_arithmetic(out);
            return;
        case 0x86: // xchg
        case 0x87:
            replaces_if(out, reg_counts() && (reg_is_sp() || rm_is_sp()));
            return;
        case 0x88: // mov
        case 0x89:
            replaces_if(out, reg_counts() && rm_is_sp() && !(op == 0x89 && reg_is_sp() && is_wide()));
            return;
        case 0x8a:
        case 0x8b:
            replaces_if(out, reg_counts() && reg_is_sp() && !(op == 0x8b && rm_is_sp() && is_wide()));
            return;
        case 0x8c:
            replaces_if(out, rm_is_sp());
            return;
        case 0x8d:
            classify_lea(out);
            return;
        case 0x8f:
            if (rm_is_sp())
                out.kind = Kind::kReplaces;
            else
                adds(out, pushed());
            return;
        case 0x9c:
            adds(out, -pushed());
            return;
        case 0x9d:
            adds(out, pushed());
            return;
        case 0xc0: // shifts
        case 0xc1:
        case 0xd0:
        case 0xd1:
        case 0xd2:
        case 0xd3:
        case 0xc6: // mov
        case 0xc7:
            replaces_if(out, rm_is_sp() && ((op & 1) != 0 || rex_ != 0));
            return;
        case 0xc8: // enter
        case 0xc9: // leave
            out.kind = Kind::kReplaces;
            return;
        case 0xc2:
        case 0xc3:
            out.kind = Kind::kReturns;
            return;
        case 0xca: // far returns
        case 0xcb:
        case 0xcf:
        case 0xcc:
        case 0xf1:
        case 0xf4:
            out.kind = Kind::kStops;
            return;
        case 0xe8:
            out.kind = Kind::kCalls;
            return;
        case 0xe9:
        case 0xeb:
            out.kind = Kind::kJumps;
            out.value = immediate();
            return;
        case 0xf6:
        case 0xf7: // not, neg
            replaces_if(out, rm_is_sp() && (reg_ == 2 || reg_ == 3) && ((op & 1) != 0 || rex_ != 0));
            return;
        case 0xfe:
            replaces_if(out, rm_is_sp() && reg_ < 2 && rex_ != 0);
            return;
        case 0xff:
            classify_ff(out);
            return;
        default:
            return;
        }
    }

    // Without REX, a one-byte operand with SP's number is ah.
    bool reg_counts() const { return (opcode_ & 1) != 0 || rex_ != 0; }

    void classify_arithmetic(SpInstruction &out) const {
        const bool whole = is_wide() && opcode_ != 0x80;
        if (!rm_is_sp() || reg_ == 7 || (opcode_ == 0x80 && rex_ == 0))
            return;
        if (whole && (reg_ == 0 || reg_ == 5))
            adds(out, reg_ == 0 ? immediate() : -immediate());
        else
            out.kind = Kind::kReplaces;
    }

    void classify_lea(SpInstruction &out) const {
        if (!reg_is_sp())
            return;
        const bool from_sp = mod_ != 3 && rm_ == 4 && (sib_ & 7) == kSp && (sib_ >> 3 & 7) == 4 && (rex_ & 3) == 0;
        if (!from_sp || !is_wide() || address_size_)
            out.kind = Kind::kReplaces;
        else
            adds(out, displacement_size_ == 0 ? 0 : signed_at(displacement_at_, displacement_size_));
    }

    void classify_ff(SpInstruction &out) const {
        switch (reg_) {
        case 0:
        case 1:
            replaces_if(out, rm_is_sp());
            return;
        case 2:
        case 3:
            out.kind = Kind::kCalls;
            return;
        case 4:
        case 5:
            out.kind = Kind::kJumpsByValue;
            return;
        case 6:
            adds(out, -pushed());
            return;
        default:
            return;
        }
    }

    void classify_0f(SpInstruction &out) const {
        const uint8_t op = opcode_;
        if ((op & 0xf0) == 0x80) {
            out.kind = Kind::kBranches;
            out.value = immediate();
            return;
        }
        if ((op & 0xf0) == 0x40) { // cmov
            replaces_if(out, reg_is_sp());
            return;
        }
        switch (op) {
        case 0x0b:
        case 0xb9:
        case 0xff:
        case 0x07: // sysret
        case 0x35: // sysexit
            out.kind = Kind::kStops;
            return;
        case 0xa0:
        case 0xa8:
            adds(out, -pushed());
            return;
        case 0xa1:
        case 0xa9:
            adds(out, pushed());
            return;
        case 0x7e: // movd, movq from a vector register; behind f3, to one
            replaces_if(out, rm_is_sp());
            return;
        case 0x02: // lar, lsl
        case 0x03:
        case 0x2c: // conversions
        case 0x2d:
        case 0x50: // movmsk
        case 0xaf: // imul
        case 0xb6: // movzx, movsx
        case 0xb7:
        case 0xb8: // popcnt
        case 0xbc: // bit scans
        case 0xbd:
        case 0xbe:
        case 0xbf:
        case 0xc5: // pextrw
        case 0xd7: // pmovmskb
            replaces_if(out, reg_is_sp());
            return;
        case 0x20: // from control and debug registers
        case 0x21:
        case 0xa4: // double shifts
        case 0xa5:
        case 0xac:
        case 0xad:
        case 0xab: // bit changes
        case 0xb3:
        case 0xbb:
            replaces_if(out, rm_is_sp());
            return;
        case 0xba:
            replaces_if(out, rm_is_sp() && reg_ > 4);
            return;
        case 0xb1: // cmpxchg
            replaces_if(out, rm_is_sp());
            return;
        case 0xc1: // xadd
            replaces_if(out, rm_is_sp() || reg_is_sp());
            return;
        default:
            if (op >= 0xc8 && op <= 0xcf) // bswap
                replaces_if(out, (op & 7) == kSp && (rex_ & 1) == 0);
            return;
        }
    }

    std::span<const uint8_t> code_;
    size_t at_ = 0;
    Map map_ = Map::kOne;
    uint8_t opcode_ = 0;
    uint8_t rex_ = 0;
    bool operand_size_ = false;
    bool address_size_ = false;
    bool vector_ = false; // after VEX, EVEX or XOP: real code does not write SP there
    bool xop_ = false;
    bool invalid_ = false;
    unsigned xop_map_ = 0;
    uint8_t mod_ = 0;
    uint8_t reg_ = 0;
    uint8_t rm_ = 0;
    uint8_t sib_ = 0;
    size_t displacement_at_ = 0;
    size_t displacement_size_ = 0;
    size_t immediate_at_ = 0;
};

} // namespace

SpInstruction decode_sp_instruction(std::span<const uint8_t> code) { return Decoder(code).decode(); }

} // namespace dwunw::arch::x86_64
