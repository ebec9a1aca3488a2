// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A table's rules and arrays in the form that the walker in BPF reads (dwunw/bpf/dwunw_types.h).
#pragma once

#include "unwind/table.h"

#include <cstdint>
#include <vector>

namespace dwunw::bpf {

// A rule in one word. One that does not fit, or is the full interpreter's, says so (DWUNW_RULE_CFA_ELSEWHERE).
uint64_t rule_word(const unwind::Rule &rule, const arch::Arch &arch);

// A table in cells. Empty where it is larger than cells can be counted.
std::vector<uint64_t> table_cells(const unwind::Table &table);

} // namespace dwunw::bpf
