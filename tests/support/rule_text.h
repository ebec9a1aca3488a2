// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Writes a compiled rule and a row of the reference interpreter in the same words, so that they can be compared.
#pragma once

#include "support/cfi_bytes.h"
#include "support/reference_cfi.h"
#include "unwind/rule.h"

#include <string>

namespace dwunw::testing {

inline std::string register_text(uint8_t reg) { return "r" + std::to_string(reg); }

inline std::string signed_text(int64_t value) { return (value < 0 ? "" : "+") + std::to_string(value); }

inline std::string cfa_text(const unwind::Rule &rule) {
    return rule.cfa_kind == unwind::CfaKind::kRegister ? register_text(rule.cfa_reg) + signed_text(rule.cfa_offset)
                                                       : "exp";
}

inline std::string value_text(unwind::ValueKind kind, uint8_t reg, int32_t offset) {
    switch (kind) {
    case unwind::ValueKind::kSame:
        return "s";
    case unwind::ValueKind::kUndefined:
        return "u";
    case unwind::ValueKind::kAtCfa:
        return "c" + signed_text(offset);
    case unwind::ValueKind::kCfaPlus:
        return "v" + signed_text(offset);
    case unwind::ValueKind::kRegister:
        return register_text(reg);
    case unwind::ValueKind::kAtRegister:
    case unwind::ValueKind::kExpression:
        return "exp";
    case unwind::ValueKind::kValExpression:
        return "vexp";
    }
    return "?";
}

inline std::string text_of(const unwind::Rule &rule) {
    return cfa_text(rule) + " " + value_text(rule.ra_kind, rule.ra_reg, rule.ra_offset) + " " +
           value_text(rule.fp_kind, rule.fp_reg, rule.fp_offset) + (rule.signal_frame ? " signal" : "");
}

inline std::string text_of(const reference::Row &row, const reference::Fde &fde) {
    return row.cfa + " " + row.of(RIP) + " " + row.of(RBP) + (fde.signal_frame ? " signal" : "");
}

} // namespace dwunw::testing
