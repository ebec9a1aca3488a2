// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "instruction.h"

#include <Zydis/Zydis.h>

namespace dwunw::testing {
namespace {

Instruction::Kind kind_of(ZydisMnemonic mnemonic) {
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_CALL:
        return Instruction::Kind::kCall;
    case ZYDIS_MNEMONIC_RET:
        return Instruction::Kind::kReturn;
    case ZYDIS_MNEMONIC_SYSCALL:
        return Instruction::Kind::kSystemCall;
    case ZYDIS_MNEMONIC_INT3:
        return Instruction::Kind::kBreakpoint;
    default:
        return Instruction::Kind::kOther;
    }
}

} // namespace

Instruction Decoder::decode(std::span<const uint8_t> code) {
    const std::string key(code.begin(), code.end());
    if (const auto known = known_.find(key); known != known_.end())
        return known->second;
    Instruction result;
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    if (ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) &&
        ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data(), code.size(), &decoded)))
        result = {kind_of(decoded.mnemonic), decoded.length};
    known_.emplace(key, result);
    return result;
}

} // namespace dwunw::testing
