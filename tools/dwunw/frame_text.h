// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A frame in words: every report that prints stacks names its frames the same way.
#pragma once

#include "command.h"

#include <dwunw/symbolize.h>
#include <dwunw/unwind.h>

#include <optional>
#include <string>

namespace dwunw_tool {

using Symbolizer = Handle<dwunw_symbolizer, dwunw_symbolizer_close>;

// A number in hexadecimal with "0x", of at least `digits` digits.
std::string hex(uint64_t value, int digits = 1);

// nullopt: `symbolizer` is nullptr, or does not name the frame.
std::optional<dwunw_symbol> symbol_of(dwunw_symbolizer *symbolizer, const dwunw_frame &frame);

// "0x000000000040113a main+0x1a - /usr/bin/program [frame pointer]": the pc; then, if they are known, the symbol and
// the module's path; then marks for a pc that is not code and for a frame that was not found by call-frame information.
// Names are printable.
std::string frame_text(const dwunw_frame &frame, dwunw_symbolizer *symbolizer);

} // namespace dwunw_tool
