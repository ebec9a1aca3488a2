// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/return_instructions.h"

#include "bpf/instruction.h"

#include <array>
#include <cinttypes>
#include <cstdio>
#include <set>

namespace dwunw::bpf {

namespace {

std::string at(LinkAddr address) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), " at 0x%" PRIx64, address.value);
    return text.data();
}

} // namespace

Returns find_returns(const CodeMap &code, LinkAddr entry) {
    std::set<LinkAddr> seen;
    std::set<LinkAddr> returns;
    std::vector<LinkAddr> begun{entry};
    const auto unknown = [](std::string why) { return Returns{{}, std::move(why)}; };
    while (!begun.empty()) {
        LinkAddr address = begun.back();
        begun.pop_back();
        while (seen.insert(address).second) {
            if (seen.size() > kMaxFollowed)
                return unknown("the function has too much code to follow");
            std::array<uint8_t, ZYDIS_MAX_INSTRUCTION_LENGTH> bytes{};
            const size_t got = code.read(address, bytes);
            const auto instruction = Instruction::decode(std::span(bytes).first(got), address);
            if (!instruction)
                return unknown("no instruction" + at(address));
            if (instruction->is_return()) {
                returns.insert(address);
                if (returns.size() > kMaxReturns)
                    return unknown("the function has too many return instructions");
                break;
            }
            if (instruction->is_indirect_jump())
                return unknown("`" + instruction->text() + "`" + at(address) + " may lead anywhere");
            if (instruction->is_jump())
                begun.push_back(*instruction->branch_target());
            if (!instruction->goes_on())
                break;
            address = address + instruction->length();
            if (instruction->is_call() && code.is_function(address))
                break;
        }
    }
    return {{returns.begin(), returns.end()}, {}};
}

} // namespace dwunw::bpf
