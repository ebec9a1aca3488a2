// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "probe/return_instructions.h"

#include "arch/selected_probe.h"

#include <array>
#include <cinttypes>
#include <cstdio>
#include <set>
#include <vector>

namespace dwunw::probe {

namespace {

using Instruction = arch::selected::ProbedInstruction;

std::string at(LinkAddr address) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), " at 0x%" PRIx64, address.value);
    return text.data();
}

} // namespace

namespace {

std::optional<Instruction> decode_at(const CodeMap &code, LinkAddr address) {
    std::array<uint8_t, arch::selected::kMaxInstructionLength> bytes{};
    const size_t got = code.read(address, bytes);
    return Instruction::decode(std::span(bytes).first(got), address);
}

CodeMap::Target target_of(const CodeMap &code, const Instruction &indirect_jump) {
    const auto slot = indirect_jump.fixed_memory();
    return slot ? code.slot_target(slot->address) : CodeMap::Target{};
}

// Whether a jump to `address`, through a PLT entry, reaches a function that returns its first argument.
bool reaches_first_argument(const CodeMap &code, LinkAddr address) {
    auto instruction = decode_at(code, address);
    if (instruction && instruction->is_landing_mark())
        instruction = decode_at(code, address + instruction->length());
    return instruction && instruction->is_indirect_jump() &&
           target_of(code, *instruction).kind == CodeMap::Target::Kind::kReturnsFirstArgument;
}

} // namespace

Returns find_returns(const CodeMap &code, LinkAddr entry) {
    std::set<LinkAddr> seen;
    std::map<LinkAddr, dwunw_probe_result> returns;
    std::vector<LinkAddr> begun{entry};
    const auto unknown = [](std::string why) { return Returns{{}, std::move(why)}; };
    while (!begun.empty()) {
        LinkAddr address = begun.back();
        begun.pop_back();
        while (seen.insert(address).second) {
            if (seen.size() > kMaxFollowed)
                return unknown("the function has too much code to follow");
            const auto instruction = decode_at(code, address);
            if (!instruction)
                return unknown("no instruction" + at(address));
            if (instruction->is_return()) {
                returns.emplace(address, DWUNW_PROBE_RESULT_IN_RAX);
                if (returns.size() > kMaxReturns)
                    return unknown("the function has too many return instructions");
                break;
            }
            if (instruction->is_indirect_jump()) {
                const CodeMap::Target target = target_of(code, *instruction);
                if (target.kind == CodeMap::Target::Kind::kUnknown)
                    return unknown("`" + instruction->text() + "`" + at(address) + " may lead anywhere");
                if (target.kind == CodeMap::Target::Kind::kCode)
                    begun.push_back(target.code);
                else
                    returns.emplace(address, DWUNW_PROBE_RESULT_IN_RDI);
                break;
            }
            // Other functions also use the PLT entry; the jump to it belongs to this function alone.
            if (instruction->is_jump() && !instruction->goes_on() &&
                reaches_first_argument(code, *instruction->branch_target())) {
                returns.emplace(address, DWUNW_PROBE_RESULT_IN_RDI);
                break;
            }
            if (instruction->is_jump())
                begun.push_back(*instruction->branch_target());
            if (!instruction->goes_on())
                break;
            address = address + instruction->length();
            if (instruction->is_call() && code.is_function(address))
                break;
        }
    }
    return {std::move(returns), {}};
}

} // namespace dwunw::probe
