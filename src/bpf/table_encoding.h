// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Encodes a table's rules and arrays for the walk in BPF (dwunw/bpf/dwunw_types.h).
#pragma once

#include "unwind/table.h"

#include <cstdint>
#include <vector>

namespace dwunw::bpf {

// A rule in one word. If the rule does not fit, or needs the full interpreter: DWUNW_RULE_CFA_ELSEWHERE.
uint64_t rule_word(const unwind::Rule &rule, const arch::Arch &arch);

// A table in cells. Empty: the table is too large for the numbers of cells.
std::vector<uint64_t> table_cells(const unwind::Table &table);

} // namespace dwunw::bpf
