// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Makes call-frame information from a fuzzer's input: sections with well-formed entries and programs of real
// instructions, so that an input gets beyond a parser's first error. Bytes that the grammar does not know become
// instructions unchanged.
#pragma once

#include "fuzz.h"
#include "support/cfi_bytes.h"

#include <vector>

namespace dwunw::fuzz {

struct HostileCfi {
    struct Function {
        uint64_t start;
        uint64_t length;
    };
    testing::FrameSection section;
    std::vector<Function> functions;
    // Every instruction is one of the standard's, in its place, and no function overlaps another: the reference
    // interpreter can read it.
    bool valid = true;
};

// One program of up to 64 instructions, a byte each and a byte or two of operands; 0 ends it.
inline testing::Bytes program(Cursor &cursor, bool &valid) {
    using namespace dwarf;
    testing::Bytes bytes;
    std::vector<bool> remembered;
    bool register_cfa = true; // the CIE's
    for (int i = 0; i < 64; ++i) {
        const uint8_t choice = cursor.u8();
        const uint8_t reg = choice >> 4; // DWARF numbers of x86-64 but for the return address's
        switch (choice & 15) {
        case 0:
            return bytes;
        case 1:
            bytes.advance(cursor.u8() & 63);
            break;
        case 2:
            bytes.u8(DW_CFA_advance_loc2).u16(cursor.u16());
            break;
        case 3:
            register_cfa = true;
            bytes.def_cfa(reg, uint64_t{cursor.u8()} * 8);
            break;
        case 4:
            valid &= register_cfa;
            bytes.def_cfa_offset(cursor.u8());
            break;
        case 5:
            valid &= register_cfa;
            bytes.u8(DW_CFA_def_cfa_register).uleb(reg);
            break;
        case 6:
            bytes.offset(reg, cursor.u8());
            break;
        case 7:
            bytes.u8(DW_CFA_offset | uint8_t{testing::RIP}).uleb(cursor.u8());
            break;
        case 8:
            bytes.u8(DW_CFA_restore | reg);
            break;
        case 9:
            bytes.u8(DW_CFA_remember_state);
            remembered.push_back(register_cfa);
            break;
        case 10:
            bytes.u8(DW_CFA_restore_state);
            valid &= !remembered.empty();
            if (!remembered.empty()) {
                register_cfa = remembered.back();
                remembered.pop_back();
            }
            break;
        case 11:
            bytes.u8(reg % 2 == 0 ? DW_CFA_undefined : DW_CFA_same_value).uleb(reg == 0 ? testing::RIP : reg);
            break;
        case 12: // CFA = *(reg + n)
            register_cfa = false;
            bytes.u8(DW_CFA_def_cfa_expression)
                .block(testing::Bytes().u8(DW_OP_breg0 + reg).sleb(static_cast<int8_t>(cursor.u8())).u8(DW_OP_deref));
            break;
        case 13: // a register at reg + n
            bytes.u8(DW_CFA_expression)
                .uleb(cursor.u8() & 15)
                .block(testing::Bytes().u8(DW_OP_breg0 + reg).sleb(static_cast<int8_t>(cursor.u8())));
            break;
        case 14:
            bytes.u8(DW_CFA_register).uleb(reg).uleb(cursor.u8() & 15);
            break;
        default:
            valid = false;
            bytes.u8(cursor.u8());
            break;
        }
    }
    return bytes;
}

// Up to `functions` of them from `start` on, below `end`. Input: their number (a byte), and for each: its CIE and
// whether it steps back over the ones before it (a byte), the gap before it, its length (2 bytes each), its program.
inline HostileCfi hostile_cfi(Cursor &cursor, size_t functions, uint64_t start, uint64_t end) {
    HostileCfi result;
    const std::array cies = {result.section.cie(), result.section.cie(testing::usual_cie_instructions(), "zRS"),
                             result.section.cie(testing::Bytes().def_cfa(testing::RBP, 16).offset(testing::RIP, 1))};
    const size_t count = std::min<size_t>(cursor.u8(), functions);
    uint64_t at = start;
    for (size_t i = 0; i < count; ++i) {
        const uint8_t flags = cursor.u8();
        const uint64_t gap = cursor.u16();
        const uint64_t length = cursor.u16() + uint64_t{1};
        if ((flags & 4) != 0 && at - start > gap) {
            at -= gap;
            result.valid &= gap == 0;
        } else if (flags & 8) {
            at += gap;
        }
        const auto instructions = program(cursor, result.valid);
        if (length > end - at)
            break;
        result.section.fde(cies[flags % 3], at, length, instructions);
        result.functions.push_back({at, length});
        at += length;
    }
    result.section.end();
    return result;
}

} // namespace dwunw::fuzz
