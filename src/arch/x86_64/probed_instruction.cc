// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "arch/x86_64/probed_instruction.h"

#include <algorithm>

namespace dwunw::arch::x86_64 {

namespace {

// Instructions whose whole effect is in their operands and the flags, and which can fault only by a memory operand. The
// list has the instructions that may be passed over, so an unknown one is never passed over.
bool is_plain(ZydisMnemonic mnemonic) {
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CMOVB:
    case ZYDIS_MNEMONIC_CMOVBE:
    case ZYDIS_MNEMONIC_CMOVL:
    case ZYDIS_MNEMONIC_CMOVLE:
    case ZYDIS_MNEMONIC_CMOVNB:
    case ZYDIS_MNEMONIC_CMOVNBE:
    case ZYDIS_MNEMONIC_CMOVNL:
    case ZYDIS_MNEMONIC_CMOVNLE:
    case ZYDIS_MNEMONIC_CMOVNS:
    case ZYDIS_MNEMONIC_CMOVNZ:
    case ZYDIS_MNEMONIC_CMOVS:
    case ZYDIS_MNEMONIC_CMOVZ:
    case ZYDIS_MNEMONIC_SETB:
    case ZYDIS_MNEMONIC_SETBE:
    case ZYDIS_MNEMONIC_SETL:
    case ZYDIS_MNEMONIC_SETLE:
    case ZYDIS_MNEMONIC_SETNB:
    case ZYDIS_MNEMONIC_SETNBE:
    case ZYDIS_MNEMONIC_SETNL:
    case ZYDIS_MNEMONIC_SETNLE:
    case ZYDIS_MNEMONIC_SETNS:
    case ZYDIS_MNEMONIC_SETNZ:
    case ZYDIS_MNEMONIC_SETS:
    case ZYDIS_MNEMONIC_SETZ:
        return true;
    default:
        return false;
    }
}

bool is_general(ZydisRegister reg) {
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return true;
    default:
        return false;
    }
}

bool may_write(ZydisRegister reg, unsigned kept_arguments) {
    static constexpr ZydisRegister kArguments[] = {ZYDIS_REGISTER_RDI, ZYDIS_REGISTER_RSI, ZYDIS_REGISTER_RDX,
                                                   ZYDIS_REGISTER_RCX, ZYDIS_REGISTER_R8,  ZYDIS_REGISTER_R9};
    const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (whole == ZYDIS_REGISTER_RAX || whole == ZYDIS_REGISTER_R10 || whole == ZYDIS_REGISTER_R11)
        return true;
    const auto *found = std::find(std::begin(kArguments), std::end(kArguments), whole);
    return found != std::end(kArguments) && found - std::begin(kArguments) >= kept_arguments;
}

} // namespace

std::optional<ProbedInstruction> ProbedInstruction::decode(std::span<const uint8_t> code, LinkAddr address) {
    ProbedInstruction result;
    ZydisDecoder decoder;
    if (ZYAN_FAILED(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) ||
        ZYAN_FAILED(ZydisDecoderDecodeFull(&decoder, code.data(), code.size(), &result.decoded_, result.operands_)))
        return std::nullopt;
    result.address_ = address;
    return result;
}

// By opcode, as the kernel decides. Recognises only encodings that compilers write. Others that the kernel emulates (a
// jump with REX) are left out; so is `xchg eax, r8d`, which is 90 with REX.B, and which the kernel takes for a nop.
// Prefixes for which the kernel refuses probes (segments, lock, 66 before a branch) are also left out.
bool ProbedInstruction::is_emulated(uint32_t kernel) const {
    bool operand_size = false;
    bool repeat = false;
    uint8_t rex = 0;
    for (size_t i = 0; i < decoded_.raw.prefix_count; ++i) {
        const uint8_t prefix = decoded_.raw.prefixes[i].value;
        if (prefix == 0x66)
            operand_size = true;
        else if (prefix == 0xf2)
            repeat = true;
        else if ((prefix & 0xf0) == 0x40)
            rex = prefix;
        else
            return false;
    }
    const uint8_t opcode = decoded_.opcode;
    if (decoded_.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) {
        if (opcode == 0x90)
            return decoded_.mnemonic == ZYDIS_MNEMONIC_NOP && !repeat && rex == 0;
        if (opcode >= 0x50 && opcode <= 0x57) // the kernel emulates one byte, or 41 and one byte
            return !operand_size && !repeat && (rex == 0 || rex == 0x41);
        if (opcode == 0xe8 || opcode == 0xe9 || opcode == 0xeb || (opcode & 0xf0) == 0x70)
            return !operand_size && rex == 0; // f2 is `bnd`
    } else if (decoded_.opcode_map == ZYDIS_OPCODE_MAP_0F) {
        if ((opcode & 0xf0) == 0x80)
            return !operand_size && rex == 0;
        if (opcode == 0x1f && decoded_.raw.modrm.reg == 0)
            return !repeat && rex == 0 && kernel >= kernel_version(6, 18);
    }
    return false;
}

bool ProbedInstruction::is_five_byte_nop() const {
    constexpr size_t kLength = 5;
    return decoded_.mnemonic == ZYDIS_MNEMONIC_NOP && decoded_.length == kLength && decoded_.raw.prefix_count == 0;
}

std::optional<LinkAddr> ProbedInstruction::branch_target() const {
    for (const ZydisDecodedOperand &operand : operands()) {
        if (operand.type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !operand.imm.is_relative)
            continue;
        return LinkAddr(address_ + decoded_.length + operand.imm.value.u);
    }
    return std::nullopt;
}

bool ProbedInstruction::is_jump() const {
    return decoded_.meta.category == ZYDIS_CATEGORY_UNCOND_BR || decoded_.meta.category == ZYDIS_CATEGORY_COND_BR;
}

bool ProbedInstruction::is_indirect_jump() const { return is_jump() && !branch_target(); }

bool ProbedInstruction::is_call() const { return decoded_.meta.category == ZYDIS_CATEGORY_CALL; }

bool ProbedInstruction::is_return() const { return decoded_.meta.category == ZYDIS_CATEGORY_RET; }

bool ProbedInstruction::is_landing_mark() const { return decoded_.mnemonic == ZYDIS_MNEMONIC_ENDBR64; }

bool ProbedInstruction::goes_on() const {
    switch (decoded_.mnemonic) {
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        return false;
    default:
        return decoded_.meta.category != ZYDIS_CATEGORY_UNCOND_BR && !is_return();
    }
}

std::optional<ProbedInstruction::FixedMemory> ProbedInstruction::fixed_memory() const {
    for (const ZydisDecodedOperand &operand : operands()) {
        if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.mem.type != ZYDIS_MEMOP_TYPE_MEM)
            continue;
        if (operand.mem.base != ZYDIS_REGISTER_RIP || operand.mem.index != ZYDIS_REGISTER_NONE ||
            operand.mem.segment != ZYDIS_REGISTER_DS)
            return std::nullopt;
        return FixedMemory{address_ + decoded_.length + static_cast<uint64_t>(operand.mem.disp.value),
                           operand.size / 8U};
    }
    return std::nullopt;
}

std::string ProbedInstruction::why_kept(const Rights &rights) const {
    if (branch_target() || is_jump())
        return "goes elsewhere";
    if (!is_plain(decoded_.mnemonic))
        return "is not known to be harmless";
    for (const ZydisDecodedOperand &operand : operands()) {
        const bool written = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        switch (operand.type) {
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            break;
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (ZydisRegisterGetClass(operand.reg.value) == ZYDIS_REGCLASS_FLAGS)
                break;
            if (!is_general(operand.reg.value))
                return "is not known to be harmless";
            if (written && !may_write(operand.reg.value, rights.kept_arguments))
                return std::string("writes ") + ZydisRegisterGetString(operand.reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY: {
            if (operand.mem.type == ZYDIS_MEMOP_TYPE_AGEN || decoded_.mnemonic == ZYDIS_MNEMONIC_NOP)
                break;
            if (written)
                return "writes memory";
            const auto fixed = fixed_memory();
            if (!fixed || rights.may_read == nullptr || !rights.may_read(rights.may_read_context, *fixed))
                return "reads memory";
            break;
        }
        default:
            return "is not known to be harmless";
        }
    }
    return {};
}

std::string ProbedInstruction::mnemonic() const { return ZydisMnemonicGetString(decoded_.mnemonic); }

std::string ProbedInstruction::text() const {
    ZydisFormatter formatter;
    char buffer[128];
    // Numbers without leading zeros: 0x1da488.
    static constexpr ZydisFormatterProperty kUnpadded[] = {ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
                                                           ZYDIS_FORMATTER_PROP_DISP_PADDING,
                                                           ZYDIS_FORMATTER_PROP_IMM_PADDING};
    if (ZYAN_FAILED(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)))
        return mnemonic();
    for (const ZydisFormatterProperty property : kUnpadded)
        ZydisFormatterSetProperty(&formatter, property, ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    if (ZYAN_FAILED(ZydisFormatterFormatInstruction(&formatter, &decoded_, operands_, decoded_.operand_count_visible,
                                                    buffer, sizeof(buffer), address_.value, nullptr)))
        return mnemonic();
    return buffer;
}

bool precede_displacement(uint8_t before, uint8_t last) {
    return last == 0xe8 || last == 0xe9 || (before == 0x0f && (last & 0xf0) == 0x80) ||
           (before == 0xc7 && last == 0xf8) || (before == 0x8d && (last & 0xc7) == 0x05);
}

} // namespace dwunw::arch::x86_64
