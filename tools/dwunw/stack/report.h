// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The stacks of a process, printed: as text for people, or as JSON for programs. doc/man/dwunw.1 says what they
// contain. Both print until some output is lost. `symbolizer` nullptr: without names.
#pragma once

#include "stack/take.h"

#include <dwunw/symbolize.h>

namespace dwunw_tool {

void print_text(int32_t pid, const std::vector<ThreadStack> &stacks, dwunw_symbolizer *symbolizer);
void print_json(int32_t pid, const std::vector<ThreadStack> &stacks, dwunw_symbolizer *symbolizer);

} // namespace dwunw_tool
