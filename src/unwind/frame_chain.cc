// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/unwind_frame_chain_test.
#include "unwind/frame_chain.h"

#include "unwind/module_cfi.h"
#include "unwind/step.h"

namespace dwunw::unwind {
namespace {

// Whether a frame's caller is where a frame-pointer walk looks for it: the return address at [FP + 8], the caller's FP
// at [FP].
bool has_own_frame(const Rule &rule, const arch::Arch &arch) {
    constexpr int32_t kWord = sizeof(uint64_t);
    return rule.cfa_kind == CfaKind::kRegister && rule.cfa_reg == arch.fp && rule.cfa_offset == 2 * kWord &&
           rule.ra_kind == ValueKind::kAtCfa && rule.ra_offset == -kWord && rule.fp_kind == ValueKind::kAtCfa &&
           rule.fp_offset == -2 * kWord && !rule.signal_frame;
}

// Without rules, the code would have to be compared with the stack, which is gone.
bool step_is_certain(const arch::Arch &arch, const CodeLocation &location, CodeAddr pc) {
    if (location.cfi == nullptr)
        return false;
    const auto found = location.cfi->rule_at(location.bias.link(pc.lookup()));
    return found.status == DWUNW_OK && has_own_frame(found.rule, arch);
}

} // namespace

Result<size_t> check_frame_chain(const arch::Arch &arch, AddressSpace &space, std::span<const uint64_t> addresses,
                                 std::span<dwunw_frame> frames) {
    size_t certain = 0;
    bool broken = false;
    for (size_t i = 0; i < addresses.size(); ++i) {
        const CodeAddr pc = CodeAddr::return_address(RunAddr(addresses[i]));
        if (addresses[i] == 0)
            return Error{DWUNW_ERR_NO_MAPPING, 0};
        const CodeLocation location = space.find(pc.lookup());
        if (location.kind == CodeKind::kUprobeTrampoline)
            return Error{DWUNW_ERR_UPROBE_TRAMPOLINE, addresses[i]};
        if (location.kind == CodeKind::kUnmapped)
            return Error{DWUNW_ERR_NO_MAPPING, addresses[i]};
        if (!follows_call(arch, space, pc.pc()).value_or(false))
            return Error{DWUNW_ERR_NOT_FOUND, addresses[i]};
        dwunw_frame &frame = frames[i];
        frame = {};
        frame.pc = addresses[i];
        frame.source = i == 0 ? DWUNW_SOURCE_REGISTERS : DWUNW_SOURCE_FRAME_POINTER;
        if (location.kind == CodeKind::kModule) {
            frame.module = location.module;
            frame.module_offset = location.bias.link(pc.pc()).value;
        }
        if (!broken)
            certain = i + 1;
        broken = broken || !step_is_certain(arch, location, pc);
    }
    return certain;
}

} // namespace dwunw::unwind
