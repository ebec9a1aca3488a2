// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/expression.h"

#include "base/cursor.h"
#include "dwarf/constants.h"

#include <array>
#include <limits>

namespace dwunw::dwarf {
namespace {

constexpr Error kMalformed{DWUNW_ERR_CFI_MALFORMED};

class Stack {
  public:
    bool push(uint64_t value) {
        if (depth_ == values_.size())
            return false;
        values_[depth_++] = value;
        return true;
    }
    bool pop(uint64_t *value) {
        if (depth_ == 0)
            return false;
        *value = values_[--depth_];
        return true;
    }
    // Entry `index` from the top, 0 the top itself.
    uint64_t *at(size_t index) { return index < depth_ ? &values_[depth_ - 1 - index] : nullptr; }

  private:
    std::array<uint64_t, kMaxExpressionStack> values_;
    size_t depth_ = 0;
};

// Binary operators: `left` was pushed first. Arithmetic wraps; comparisons and division are signed (DWARF 5 §2.5.1.4).
std::optional<uint64_t> binary(uint8_t op, uint64_t left, uint64_t right) {
    const auto sleft = static_cast<int64_t>(left);
    const auto sright = static_cast<int64_t>(right);
    switch (op) {
    case DW_OP_and:
        return left & right;
    case DW_OP_div:
        if (right == 0)
            return std::nullopt;
        // The one quotient that does not fit wraps, like every other operation.
        if (sleft == std::numeric_limits<int64_t>::min() && sright == -1)
            return left;
        return static_cast<uint64_t>(sleft / sright);
    case DW_OP_minus:
        return left - right;
    case DW_OP_mod:
        if (right == 0)
            return std::nullopt;
        return left % right;
    case DW_OP_mul:
        return left * right;
    case DW_OP_or:
        return left | right;
    case DW_OP_plus:
        return left + right;
    case DW_OP_shl:
        return right < 64 ? left << right : 0;
    case DW_OP_shr:
        return right < 64 ? left >> right : 0;
    case DW_OP_shra:
        return static_cast<uint64_t>(sleft >> (right < 64 ? right : 63));
    case DW_OP_xor:
        return left ^ right;
    case DW_OP_eq:
        return sleft == sright;
    case DW_OP_ge:
        return sleft >= sright;
    case DW_OP_gt:
        return sleft > sright;
    case DW_OP_le:
        return sleft <= sright;
    case DW_OP_lt:
        return sleft < sright;
    case DW_OP_ne:
        return sleft != sright;
    default:
        return std::nullopt;
    }
}

bool is_binary(uint8_t op) {
    switch (op) {
    case DW_OP_and:
    case DW_OP_div:
    case DW_OP_minus:
    case DW_OP_mod:
    case DW_OP_mul:
    case DW_OP_or:
    case DW_OP_plus:
    case DW_OP_shl:
    case DW_OP_shr:
    case DW_OP_shra:
    case DW_OP_xor:
    case DW_OP_eq:
    case DW_OP_ge:
    case DW_OP_gt:
    case DW_OP_le:
    case DW_OP_lt:
    case DW_OP_ne:
        return true;
    default:
        return false;
    }
}

// Operators that push a constant; false for any other.
bool push_constant(uint8_t op, Cursor &cursor, ExpressionContext &context, uint64_t *value) {
    auto sign = [](auto v) { return static_cast<uint64_t>(int64_t{v}); };
    if (op >= DW_OP_lit0 && op <= DW_OP_lit31) {
        *value = op - DW_OP_lit0;
        return true;
    }
    switch (op) {
    case DW_OP_addr:
        *value = context.relocate(LinkAddr(cursor.u64())).value;
        return true;
    case DW_OP_const1u:
        *value = cursor.u8();
        return true;
    case DW_OP_const1s:
        *value = sign(static_cast<int8_t>(cursor.u8()));
        return true;
    case DW_OP_const2u:
        *value = cursor.u16();
        return true;
    case DW_OP_const2s:
        *value = sign(static_cast<int16_t>(cursor.u16()));
        return true;
    case DW_OP_const4u:
        *value = cursor.u32();
        return true;
    case DW_OP_const4s:
        *value = sign(static_cast<int32_t>(cursor.u32()));
        return true;
    case DW_OP_const8u:
    case DW_OP_const8s:
        *value = cursor.u64();
        return true;
    case DW_OP_constu:
        *value = cursor.uleb128();
        return true;
    case DW_OP_consts:
        *value = static_cast<uint64_t>(cursor.sleb128());
        return true;
    default:
        return false;
    }
}

} // namespace

Result<uint64_t> evaluate(std::span<const uint8_t> expression, ExpressionContext &context,
                          std::optional<uint64_t> initial) {
    Stack stack;
    if (initial)
        stack.push(*initial);
    Cursor cursor(expression);
    for (size_t step = 0; !cursor.at_end(); ++step) {
        if (step == kMaxExpressionSteps)
            return kMalformed;
        const uint8_t op = cursor.u8();
        const Error malformed{DWUNW_ERR_CFI_MALFORMED, op};
        uint64_t a = 0;
        uint64_t b = 0;
        bool good = true;
        if (push_constant(op, cursor, context, &a)) {
            good = stack.push(a);
        } else if ((op >= DW_OP_breg0 && op <= DW_OP_breg31) || op == DW_OP_bregx) {
            const uint64_t reg = op == DW_OP_bregx ? cursor.uleb128() : uint64_t{op} - DW_OP_breg0;
            const int64_t offset = cursor.sleb128();
            if (!cursor.ok())
                return malformed;
            auto value = context.read_register(reg);
            if (!value)
                return value.error();
            good = stack.push(*value + static_cast<uint64_t>(offset));
        } else if (is_binary(op)) {
            good = stack.pop(&b) && stack.pop(&a);
            const auto result = good ? binary(op, a, b) : std::nullopt;
            good = result && stack.push(*result);
        } else {
            switch (op) {
            case DW_OP_nop:
                break;
            case DW_OP_deref:
            case DW_OP_deref_size: {
                const size_t size = op == DW_OP_deref ? 8 : cursor.u8();
                if (!cursor.ok() || (size != 1 && size != 2 && size != 4 && size != 8) || !stack.pop(&a))
                    return malformed;
                auto value = context.read_memory(RunAddr(a), size);
                if (!value)
                    return value.error();
                good = stack.push(*value);
                break;
            }
            case DW_OP_dup:
            case DW_OP_over:
            case DW_OP_pick: {
                const size_t index = op == DW_OP_dup ? 0 : op == DW_OP_over ? 1 : cursor.u8();
                const uint64_t *entry = stack.at(index);
                good = entry != nullptr && stack.push(*entry);
                break;
            }
            case DW_OP_drop:
                good = stack.pop(&a);
                break;
            case DW_OP_swap:
                good = stack.at(1) != nullptr;
                if (good)
                    std::swap(*stack.at(0), *stack.at(1));
                break;
            case DW_OP_rot:
                // The top becomes the third; the second and third move up.
                good = stack.at(2) != nullptr;
                if (good) {
                    std::swap(*stack.at(0), *stack.at(1));
                    std::swap(*stack.at(1), *stack.at(2));
                }
                break;
            case DW_OP_abs:
                good = stack.pop(&a) && stack.push(static_cast<int64_t>(a) < 0 ? -a : a);
                break;
            case DW_OP_neg:
                good = stack.pop(&a) && stack.push(-a);
                break;
            case DW_OP_not:
                good = stack.pop(&a) && stack.push(~a);
                break;
            case DW_OP_plus_uconst:
                b = cursor.uleb128();
                good = stack.pop(&a) && stack.push(a + b);
                break;
            case DW_OP_skip:
            case DW_OP_bra: {
                const auto distance = static_cast<int16_t>(cursor.u16());
                if (!cursor.ok() || (op == DW_OP_bra && !stack.pop(&a)))
                    return malformed;
                if (op == DW_OP_skip || a != 0) {
                    const int64_t target = static_cast<int64_t>(cursor.offset()) + distance;
                    if (target < 0 || static_cast<uint64_t>(target) > expression.size())
                        return malformed;
                    cursor = Cursor(expression, static_cast<size_t>(target));
                }
                break;
            }
            default:
                return Error{DWUNW_ERR_UNSUPPORTED_EXPRESSION, op};
            }
        }
        if (!good || !cursor.ok())
            return malformed;
    }
    const uint64_t *top = stack.at(0);
    if (top == nullptr)
        return kMalformed;
    return *top;
}

std::optional<SimpleExpression> recognise(std::span<const uint8_t> expression, uint64_t pc_register) {
    Cursor cursor(expression);
    const uint8_t first = cursor.u8();
    if (!cursor.ok() || first < DW_OP_breg0 || first > DW_OP_breg31)
        return std::nullopt;
    SimpleExpression simple{SimpleExpression::Kind::kRegisterOffset, static_cast<uint8_t>(first - DW_OP_breg0),
                            cursor.sleb128(), 0};
    if (!cursor.ok())
        return std::nullopt;
    if (cursor.at_end())
        return simple;

    const uint8_t second = cursor.u8();
    if (second == DW_OP_deref) {
        simple.kind = SimpleExpression::Kind::kDeref;
        if (cursor.at_end())
            return simple;
        if (cursor.u8() != DW_OP_plus_uconst)
            return std::nullopt;
        const uint64_t addend = cursor.uleb128();
        if (!cursor.ok() || !cursor.at_end() || addend > uint64_t{std::numeric_limits<int64_t>::max()})
            return std::nullopt;
        simple.addend = static_cast<int64_t>(addend);
        return simple;
    }

    // Linkers' .plt: sp + 8, and 8 more once the entry's push (at byte N of its 16) is done:
    // breg<sp> 8; breg<pc> 0; lit15; and; lit<N>; ge; lit3; shl; plus.
    if (second != DW_OP_breg0 + pc_register || cursor.sleb128() != 0 || cursor.u8() != DW_OP_lit0 + 15 ||
        cursor.u8() != DW_OP_and)
        return std::nullopt;
    const uint8_t literal = cursor.u8();
    if (!cursor.ok() || literal < DW_OP_lit0 || literal > DW_OP_lit0 + 15 || cursor.u8() != DW_OP_ge ||
        cursor.u8() != DW_OP_lit0 + 3 || cursor.u8() != DW_OP_shl || cursor.u8() != DW_OP_plus || !cursor.ok() ||
        !cursor.at_end())
        return std::nullopt;
    simple.kind = SimpleExpression::Kind::kPlt;
    simple.addend = literal - DW_OP_lit0;
    return simple;
}

} // namespace dwunw::dwarf
