// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "frame_text.h"

#include "output.h"

#include <dwunw/process.h>

#include <array>
#include <cinttypes>
#include <cstdio>

namespace dwunw_tool {

std::string hex(uint64_t value, int digits) {
    std::array<char, 19> text;
    std::snprintf(text.data(), text.size(), "0x%0*" PRIx64, digits, value);
    return text.data();
}

std::optional<dwunw_symbol> symbol_of(dwunw_symbolizer *symbolizer, const dwunw_frame &frame) {
    dwunw_symbol symbol{};
    symbol.size = sizeof symbol;
    if (!symbolizer || dwunw_symbolize_frame(symbolizer, &frame, &symbol) != DWUNW_OK)
        return std::nullopt;
    return symbol;
}

std::string frame_text(const dwunw_frame &frame, dwunw_symbolizer *symbolizer) {
    std::string text = hex(frame.pc, 16);
    if (const auto symbol = symbol_of(symbolizer, frame))
        text += " " + printable(symbol->name) + "+" + hex(symbol->offset);
    if (frame.module)
        text += " - " + printable(dwunw_module_path(frame.module));
    if (frame.flags & DWUNW_FRAME_FLAG_NO_CODE)
        text += " [no code]";
    if (frame.source == DWUNW_SOURCE_FRAME_POINTER)
        text += " [frame pointer]";
    else if (frame.source == DWUNW_SOURCE_CODE)
        text += " [code]";
    return text;
}

} // namespace dwunw_tool
