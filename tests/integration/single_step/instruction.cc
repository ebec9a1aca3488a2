// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "instruction.h"

#include <capstone/capstone.h>

#include <stdexcept>

namespace dwunw::testing {

using Kind = Instruction::Kind;

struct Decoder::Capstone {
    csh handle = 0;
    cs_insn *instruction = nullptr;
};

Decoder::Decoder() : capstone_(std::make_unique<Capstone>()) {
    if (cs_open(CS_ARCH_X86, CS_MODE_64, &capstone_->handle) != CS_ERR_OK)
        throw std::runtime_error("capstone");
    capstone_->instruction = cs_malloc(capstone_->handle);
}

Decoder::~Decoder() {
    cs_free(capstone_->instruction, 1);
    cs_close(&capstone_->handle);
}

Instruction Decoder::decode(std::span<const uint8_t> code) {
    const std::string key(code.begin(), code.end());
    if (const auto known = known_.find(key); known != known_.end())
        return known->second;
    Instruction result;
    const uint8_t *bytes = code.data();
    size_t size = code.size();
    uint64_t address = 0;
    if (cs_disasm_iter(capstone_->handle, &bytes, &size, &address, capstone_->instruction)) {
        result.size = capstone_->instruction->size;
        switch (capstone_->instruction->id) {
        case X86_INS_CALL:
            result.kind = Kind::kCall;
            break;
        case X86_INS_RET:
            result.kind = Kind::kReturn;
            break;
        case X86_INS_SYSCALL:
            result.kind = Kind::kSystemCall;
            break;
        case X86_INS_INT3:
            result.kind = Kind::kBreakpoint;
            break;
        default:
            break;
        }
    }
    known_.emplace(key, result);
    return result;
}

} // namespace dwunw::testing
