// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proves that a probe at the answer sees what a probe at the entry sees:
//
//     free:  test rdi, rdi      passed over: harmless
//            jz   out           the answer, if no branch leads into (entry, answer]
//            …                  decoded to the function's end, and every branch checked
//     out:   ret
//
// First step: the straight line from the entry, over instructions that may be passed over, up to one that the kernel
// emulates. Second step: no other code enters this line. The whole function is decoded from its entry, one instruction
// after the other, and every direct branch is checked.
//
// The decoding is right only if it is in step with the processor; data between instructions could break that. So every
// branch must lead to a decoded instruction: code that was decoded out of step soon has a branch that does not. An
// indirect jump (a switch's table) could go anywhere. Every doubt makes the entry the answer, which is always right.
//
// tests/unit/probe_placement_test.cc has each class of instruction and of doubt. tests/integration/probe_placement runs
// the answers in real allocators, and counts calls at the entry and at the answer.
#include "probe/placement.h"

#include "arch/selected_probe.h"

#include <algorithm>
#include <vector>

namespace dwunw::probe {

namespace {

using Instruction = arch::selected::ProbedInstruction;

std::string offset_words(uint64_t offset) { return "offset " + std::to_string(offset) + ": "; }

struct Doubt {
    dwunw_probe_why why;
    std::string words;
};

// Whether some instruction of the function enters `range`, or may enter it; nullopt: none does.
std::optional<Doubt> find_doubt(std::span<const uint8_t> code, LinkAddr entry, EntryRange range,
                                const Surroundings *surroundings) {
    const LinkAddr end = entry + code.size();
    std::vector<LinkAddr> starts;
    std::vector<std::pair<LinkAddr, LinkAddr>> branches; // from, to
    starts.reserve(code.size() / 4);
    for (size_t at = 0; at < code.size();) {
        const auto instruction = Instruction::decode(code.subspan(at), entry + at);
        if (!instruction)
            return Doubt{DWUNW_PROBE_CODE_UNCLEAR, "the bytes at " + std::to_string(at) + " are not an instruction"};
        starts.push_back(entry + at);
        if (const auto target = instruction->branch_target(); target && *target >= entry && *target < end)
            branches.emplace_back(entry + at, *target);
        if (instruction->is_indirect_jump()) {
            const auto slot = instruction->fixed_memory();
            if (!slot || surroundings == nullptr || !surroundings->is_got(slot->address, slot->size))
                return Doubt{DWUNW_PROBE_CODE_UNCLEAR,
                             "`" + instruction->text() + "` at " + std::to_string(at) + " may lead anywhere"};
        }
        at += instruction->length();
    }
    for (const auto &[from, to] : branches) {
        const std::string at = std::to_string(from - entry);
        if (range.contains(to))
            return Doubt{DWUNW_PROBE_OTHER_WAY_IN, "the branch at " + at + " leads to " + std::to_string(to - entry)};
        if (!std::binary_search(starts.begin(), starts.end(), to))
            return Doubt{DWUNW_PROBE_CODE_UNCLEAR, "the branch at " + at + " leads into an instruction"};
    }
    return std::nullopt;
}

} // namespace

Placement place_at_entry(std::span<const uint8_t> code, LinkAddr entry, const dwunw_probe_options &options,
                         dwunw_probe_why why, const std::string &reason) {
    const auto first = Instruction::decode(code, entry);
    const bool emulated = first && first->is_emulated(options.kernel);
    std::string words = offset_words(0);
    if (first)
        words += first->mnemonic() + (emulated ? ", emulated" : ", single-stepped");
    return {0, why, emulated, words + (reason.empty() ? "" : (first ? "; " : "") + reason)};
}

Result<Placement> place(std::span<const uint8_t> code, LinkAddr entry, const dwunw_probe_options &options,
                        const Surroundings *surroundings) {
    const auto at_entry = [&](dwunw_probe_why why, const std::string &reason) {
        return place_at_entry(code, entry, options, why, reason);
    };
    if ((options.flags & DWUNW_PROBE_AT_ENTRY) != 0)
        return at_entry(DWUNW_PROBE_ENTRY_WAS_ASKED, "as asked");

    Instruction::Rights rights{options.arguments == 0 ? DWUNW_PROBE_MAX_ARGUMENTS : options.arguments, nullptr,
                               nullptr};
    if (surroundings != nullptr && (options.flags & DWUNW_PROBE_SKIP_MODULE_READS) != 0) {
        rights.may_read_context = surroundings;
        rights.may_read = [](const void *context, Instruction::FixedMemory memory) {
            return static_cast<const Surroundings *>(context)->is_loaded(memory.address, memory.size);
        };
    }

    std::string skipped;
    size_t offset = 0;
    std::optional<Instruction> found;
    for (size_t count = 0; !found; ++count) {
        if (offset >= code.size())
            return at_entry(DWUNW_PROBE_NONE_EMULATED, "no emulated instruction before the function's end");
        if (count > kMaxSkipped)
            return at_entry(DWUNW_PROBE_NONE_EMULATED, "no emulated instruction among the first ones");
        const auto instruction = Instruction::decode(code.subspan(offset), entry + offset);
        if (!instruction)
            return at_entry(DWUNW_PROBE_CODE_UNCLEAR,
                            "the bytes at " + std::to_string(offset) + " are not an instruction");
        // From Linux 6.18 on the kernel rewrites this nop into a call, whose return address overwrites the red zone of
        // the function. At the first byte there is nothing below SP yet.
        const bool spoils_red_zone = offset > 0 && instruction->is_five_byte_nop();
        if (instruction->is_emulated(options.kernel) && !spoils_red_zone) {
            found = instruction;
            break;
        }
        if (const std::string why = instruction->why_kept(rights); !why.empty())
            return at_entry(DWUNW_PROBE_NOT_HARMLESS,
                            "`" + instruction->text() + "` at " + std::to_string(offset) + " " + why);
        skipped += (skipped.empty() ? "`" : ", `") + instruction->text() + "`";
        offset += instruction->length();
    }
    if (offset == 0)
        return at_entry(DWUNW_PROBE_ENTRY_IS_EMULATED, "");

    const EntryRange range{entry, entry + offset};
    const std::string not_there = found->mnemonic() + " at " + std::to_string(offset) + " is emulated, but ";
    if (const auto doubt = find_doubt(code, entry, range, surroundings))
        return at_entry(doubt->why, not_there + doubt->words);
    if (surroundings != nullptr) {
        const auto way = surroundings->other_way_in(range);
        if (!way)
            return way.error();
        if (!way->empty())
            return at_entry(DWUNW_PROBE_OTHER_WAY_IN, not_there + *way);
    }
    return Placement{offset, DWUNW_PROBE_MOVED, true,
                     offset_words(offset) + found->mnemonic() + ", emulated; passed over " + skipped};
}

} // namespace dwunw::probe
