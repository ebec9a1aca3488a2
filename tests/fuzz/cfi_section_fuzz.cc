// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Reads any bytes as .eh_frame or .debug_frame, and others as .eh_frame_hdr. Proves that listing the entries ends, that
// every entry lies within the section, that the list is sorted and finds its entries, and that an FDE found by the
// header's table covers the address in question.
//
// Input: flags (1: .debug_frame), the section's address, .text's and .got's (8 bytes each), the header's size (2
// bytes), the header, the section.
#include "fuzz.h"
#include "unwind/module_cfi.h"

#include <elf.h>

namespace dwunw {
namespace {

using fuzz::require;
using Kind = dwarf::CfiSection::Entry::Kind;

void require_within(std::span<const uint8_t> part, size_t offset, std::span<const uint8_t> section) {
    require(offset <= section.size() && part.size() <= section.size() - offset, "instructions lie in the section");
    require(part.empty() || part.data() == section.data() + offset, "and where it is said");
}

void read_entries(const dwarf::CfiSection &section) {
    for (size_t offset = 0;;) {
        const auto entry = section.entry_at(offset);
        if (!entry || entry->kind == Kind::kEnd)
            return;
        require(entry->next > offset && entry->next <= section.bytes().size(), "entries follow one another");
        if (entry->kind == Kind::kCie) {
            if (const auto cie = section.parse_cie(*entry))
                require_within(cie->instructions, cie->instructions_offset, section.bytes());
        } else if (const auto fde = section.fde_at(offset)) {
            require(fde->start <= fde->end, "an FDE ends behind its start");
            require_within(fde->instructions, fde->instructions_offset, section.bytes());
        }
        offset = entry->next;
    }
}

void check_index(const dwarf::CfiSection &section) {
    const unwind::FdeList index(std::span(&section, 1));
    require(index.refusals().size() == std::min(index.refusal_count(), unwind::kMaxRefusals), "refusals are bounded");
    require(index.cies().size() <= unwind::kMaxCies, "CIEs are bounded");
    require(index.most_listed() <= std::max(unwind::kMaxListed, 2 * index.fdes().size()), "what is listed is bounded");
    const unwind::FdeRef *last = nullptr;
    for (const unwind::FdeRef &ref : index.fdes()) {
        require(last == nullptr || last->start < ref.start, "the index ascends");
        require(ref.start < ref.end, "no FDE in it is empty");
        require(index.find(ref.start) == &ref, "an FDE is found at its start");
        const auto fde = section.fde_at(ref.offset);
        // Listing reads no further than the range; what comes behind it may be malformed.
        require(!fde || (fde->start == ref.start && fde->end == ref.end), "an FDE in the index is the one read again");
        last = &ref;
    }
}

void require_covered(const unwind::ModuleCfi &module, LinkAddr address) {
    const auto found = module.find_fde(address);
    require(!found || (found->fde.start <= address && address < found->fde.end), "the FDE found covers the address");
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    Cursor cursor({data, size});
    const bool debug_frame = (cursor.u8() & 1) != 0;
    const LinkAddr address(cursor.u64());
    unwind::CfiInput input;
    input.text_base = LinkAddr(cursor.u64());
    input.data_base = LinkAddr(cursor.u64());
    input.machine = EM_X86_64;
    const auto header = fuzz::take(cursor, cursor.u16());
    const auto bytes = fuzz::take(cursor, size);
    const dwarf::CfiSection section(debug_frame ? dwarf::SectionKind::kDebugFrame : dwarf::SectionKind::kEhFrame, bytes,
                                    address, input.text_base, input.data_base);
    read_entries(section);
    check_index(section);

    const SectionBytes copy{{bytes.begin(), bytes.end()}, address};
    if (debug_frame) {
        input.debug_frame = copy;
    } else {
        input.eh_frame = copy;
        if (!header.empty())
            input.eh_frame_hdr = SectionBytes{{header.begin(), header.end()}, address - header.size()};
    }
    const auto module = unwind::ModuleCfi::build(std::move(input));
    require(module.ok(), "sections need not be good to be taken");
    const unwind::FdeList index(std::span(&section, 1));
    for (const unwind::FdeRef &ref : index.fdes())
        for (const LinkAddr probe : {ref.start, ref.end - 1, ref.end})
            require_covered(**module, probe);
    require((*module)->compile().ok(), "what is at hand can be compiled");
    return 0;
}
