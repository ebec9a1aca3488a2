// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A second, independent interpreter of call-frame information, slow and plain. It shares no code with the library, and
// checks the compiled table. It trusts its input, which comes from the distribution's files; an unknown instruction
// ends the test (std::runtime_error).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dwunw::reference {

// A register's rule in the form of `dwunw table`: "c-16", "v+0", "exp", "vexp", "u", "s" or "r3"; absent: no rule
// mentions it.
struct Row {
    uint64_t start = 0;
    std::string cfa; // "r7+8" or "exp"
    std::map<uint64_t, std::string> registers;

    std::string of(uint64_t reg) const {
        const auto found = registers.find(reg);
        return found == registers.end() ? "s" : found->second;
    }
};

struct Fde {
    uint64_t start = 0;
    uint64_t end = 0;
    uint64_t return_address_register = 0;
    bool signal_frame = false;
    std::vector<Row> rows; // ascending; the first begins at `start`
};

// Every FDE of an .eh_frame section that was linked to `address`.
std::vector<Fde> read_eh_frame(const std::vector<uint8_t> &section, uint64_t address);
// Every FDE of a .debug_frame section.
std::vector<Fde> read_debug_frame(const std::vector<uint8_t> &section);

} // namespace dwunw::reference
