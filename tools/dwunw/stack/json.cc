// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "frame_text.h"
#include "output.h"
#include "stack/report.h"

#include <nlohmann/json.hpp>

#include <cinttypes>
#include <cstdio>

namespace dwunw_tool {
namespace {

std::string build_id_of(const dwunw_module *module) {
    const uint8_t *bytes = nullptr;
    const size_t length = dwunw_module_build_id(module, &bytes);
    std::string text;
    for (size_t i = 0; i < length; i++) {
        char byte[3];
        std::snprintf(byte, sizeof byte, "%02x", bytes[i]);
        text += byte;
    }
    return text;
}

const char *source_name(uint32_t source) {
    switch (source) {
    case DWUNW_SOURCE_REGISTERS:
        return "registers";
    case DWUNW_SOURCE_CFI:
        return "cfi";
    case DWUNW_SOURCE_INTERPRETER:
        return "interpreter";
    case DWUNW_SOURCE_SIGNAL:
        return "signal";
    case DWUNW_SOURCE_TRAMPOLINE:
        return "trampoline";
    case DWUNW_SOURCE_FRAME_POINTER:
        return "frame-pointer";
    case DWUNW_SOURCE_CODE:
        return "code";
    case DWUNW_SOURCE_CALL:
        return "call";
    default:
        return "unknown";
    }
}

// Addresses are strings: JSON readers keep numbers as doubles, which end at 2^53.
nlohmann::json json_frame(const dwunw_frame &frame, dwunw_symbolizer *symbolizer) {
    nlohmann::json json = {
        {"pc", hex(frame.pc)},
        {"sp", hex(frame.sp)},
        {"source", source_name(frame.source)},
        {"exact_pc", (frame.flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0},
        {"signal", (frame.flags & DWUNW_FRAME_FLAG_SIGNAL) != 0},
        {"no_code", (frame.flags & DWUNW_FRAME_FLAG_NO_CODE) != 0},
        {"cfa_unmentioned", (frame.flags & DWUNW_FRAME_FLAG_CFA_UNMENTIONED) != 0},
    };
    if (frame.module) {
        json["module"] = dwunw_module_path(frame.module);
        json["module_offset"] = hex(frame.module_offset);
        if (std::string build_id = build_id_of(frame.module); !build_id.empty())
            json["build_id"] = std::move(build_id);
    }
    if (const auto symbol = symbol_of(symbolizer, frame)) {
        json["symbol"] = symbol->name;
        json["raw_symbol"] = symbol->raw_name;
        json["symbol_offset"] = symbol->offset;
    }
    return json;
}

// Names are bytes, JSON is UTF-8: bytes that are not UTF-8 become U+FFFD, without an exception. Characters that are not
// ASCII become JSON escapes, which keep the name, and are safe for a terminal.
std::string dump(const nlohmann::json &json) {
    return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

} // namespace

// Writes the frames one by one, a line each: a document of a million frames would take a gigabyte.
void print_json(int32_t pid, const std::vector<ThreadStack> &stacks, dwunw_symbolizer *symbolizer) {
    print("{\n  \"pid\": %" PRId32 ",\n  \"threads\": [", pid);
    const char *before_thread = "";
    for (const ThreadStack &stack : stacks) {
        print("%s\n    {\n      \"complete\": %s,\n      \"frames\": [", before_thread,
              stack.status == DWUNW_OK ? "true" : "false");
        const char *before_frame = "";
        for (const dwunw_frame &frame : stack.frames) {
            if (output_is_lost())
                return;
            print("%s\n        %s", before_frame, dump(json_frame(frame, symbolizer)).c_str());
            before_frame = ",";
        }
        print("%s],\n      \"name\": %s,\n      \"stopped_by\": %s,\n      \"tid\": %" PRId32 "\n    }",
              stack.frames.empty() ? "" : "\n      ", dump(stack.name).c_str(),
              dump(dwunw_status_string(stack.status)).c_str(), stack.tid);
        before_thread = ",";
    }
    print("%s]\n}\n", stacks.empty() ? "" : "\n  ");
}

} // namespace dwunw_tool
