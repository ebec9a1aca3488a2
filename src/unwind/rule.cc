// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/rule.h"

#include "dwarf/expression.h"

#include <limits>

namespace dwunw::unwind {
namespace {

using dwarf::RegisterRule;
using dwarf::RuleKind;
using dwarf::SimpleExpression;

bool narrow(int64_t value, int32_t *out) {
    if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
        return false;
    *out = static_cast<int32_t>(value);
    return true;
}

class RuleMaker {
  public:
    RuleMaker(const dwarf::TableState &state, const dwarf::Cie &cie, std::span<const uint8_t> section,
              const arch::Arch &arch)
        : state_(state), cie_(cie), section_(section), arch_(arch) {}

    Result<Rule> make() {
        if (cie_.return_address_register != arch_.ra || state_.cfa.kind == dwarf::CfaRule::Kind::kNone)
            return Error{DWUNW_ERR_CFI_MALFORMED, cie_.offset};
        rule_.signal_frame = cie_.signal_frame;
        if (!set_cfa() || !set_value(state_.ra, &rule_.ra_kind, &rule_.ra_reg, &rule_.ra_offset) ||
            !set_value(state_.fp, &rule_.fp_kind, &rule_.fp_reg, &rule_.fp_offset))
            return Error{DWUNW_ERR_LIMIT, cie_.offset};
        // The row saves SP itself, and not as the CFA.
        if (!sp_is_cfa())
            rule_.needs_interpreter = true;
        return rule_;
    }

  private:
    bool carried(uint8_t reg) const { return reg == arch_.sp || reg == arch_.fp; }

    std::optional<SimpleExpression> simple(int64_t offset, uint32_t length) const {
        return dwarf::recognise(dwarf::expression_bytes(section_, offset, length), arch_.pc);
    }

    bool set_cfa() {
        const dwarf::CfaRule &cfa = state_.cfa;
        if (cfa.kind == dwarf::CfaRule::Kind::kRegister) {
            rule_.cfa_reg = cfa.reg;
            return narrow(cfa.value, &rule_.cfa_offset);
        }
        const auto shape = simple(cfa.value, cfa.expression_length);
        if (shape && carried(shape->reg) && narrow(shape->offset, &rule_.cfa_offset) &&
            narrow(shape->addend, &rule_.cfa_addend) && shape->kind != SimpleExpression::Kind::kRegisterOffset) {
            rule_.cfa_kind = shape->kind == SimpleExpression::Kind::kPlt ? CfaKind::kPlt : CfaKind::kDeref;
            rule_.cfa_reg = shape->reg;
            return true;
        }
        rule_.cfa_kind = CfaKind::kExpression;
        rule_.cfa_offset = rule_.cfa_addend = 0;
        rule_.needs_interpreter = true;
        return true;
    }

    bool set_value(const RegisterRule &from, ValueKind *kind, uint8_t *value_reg, int32_t *offset) {
        switch (from.kind) {
        case RuleKind::kUnspecified:
        case RuleKind::kSameValue:
            *kind = ValueKind::kSame;
            return true;
        case RuleKind::kUndefined:
            *kind = ValueKind::kUndefined;
            return true;
        case RuleKind::kOffset:
            *kind = ValueKind::kAtCfa;
            return narrow(from.value, offset);
        case RuleKind::kValOffset:
            *kind = ValueKind::kCfaPlus;
            return narrow(from.value, offset);
        case RuleKind::kRegister:
            *kind = ValueKind::kRegister;
            *value_reg = from.reg;
            rule_.needs_interpreter |= !carried(from.reg);
            return true;
        case RuleKind::kExpression: {
            const auto shape = simple(from.value, from.expression_length);
            if (shape && shape->kind == SimpleExpression::Kind::kRegisterOffset && carried(shape->reg) &&
                narrow(shape->offset, offset)) {
                *kind = ValueKind::kAtRegister;
                *value_reg = shape->reg;
                return true;
            }
            *kind = ValueKind::kExpression;
            rule_.needs_interpreter = true;
            return true;
        }
        case RuleKind::kValExpression:
            *kind = ValueKind::kValExpression;
            rule_.needs_interpreter = true;
            return true;
        }
        return false;
    }

    // The outer SP is the CFA by definition. Signal frames also say so: CFA = [SP + n], SP saved at SP + n.
    bool sp_is_cfa() const {
        const RegisterRule &sp = state_.sp;
        if (sp.kind == RuleKind::kUnspecified || (sp.kind == RuleKind::kValOffset && sp.value == 0))
            return true;
        if (sp.kind != RuleKind::kExpression || rule_.cfa_kind != CfaKind::kDeref || rule_.cfa_addend != 0)
            return false;
        const auto shape = simple(sp.value, sp.expression_length);
        return shape && shape->kind == SimpleExpression::Kind::kRegisterOffset && shape->reg == rule_.cfa_reg &&
               shape->offset == rule_.cfa_offset;
    }

    const dwarf::TableState &state_;
    const dwarf::Cie &cie_;
    std::span<const uint8_t> section_;
    const arch::Arch &arch_;
    Rule rule_;
};

} // namespace

Result<Rule> make_rule(const dwarf::TableState &state, const dwarf::Cie &cie, std::span<const uint8_t> section,
                       const arch::Arch &arch) {
    return RuleMaker(state, cie, section, arch).make();
}

} // namespace dwunw::unwind
