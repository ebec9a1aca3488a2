// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/rule_cache.h"

namespace dwunw::unwind {

std::optional<PackedRule> PackedRule::pack(const Rule &rule, const arch::Arch &arch, uint32_t place) {
    if (place > kMaxPlace)
        return std::nullopt;
    const uint64_t at = uint64_t{place} << kPlaceShift;
    if (rule.ra_kind == ValueKind::kUndefined)
        return PackedRule(kRoot | at);
    const bool from_fp = rule.cfa_reg == arch.fp;
    const bool from_other = !rule.carries_cfa(arch);
    if (rule.needs_interpreter || rule.signal_frame || rule.cfa_kind != CfaKind::kRegister ||
        (from_other && rule.cfa_reg > kOtherMask) || rule.ra_kind != ValueKind::kAtCfa)
        return std::nullopt;
    const auto words = static_cast<uint64_t>(rule.cfa_offset) / 8;
    if (rule.cfa_offset < (from_other ? 0 : 8) || rule.cfa_offset % 8 != 0 ||
        words > (from_other ? kOtherOffsetMask : kCfaMask))
        return std::nullopt;
    const uint64_t cfa = words << kCfaShift | (from_other ? kFromOther | uint64_t{rule.cfa_reg} << kOtherShift : 0);
    uint64_t distance = 0;
    if (rule.fp_kind == ValueKind::kAtCfa) {
        const int64_t below = -int64_t{rule.fp_offset};
        if (below <= 0 || below % 8 != 0 || static_cast<uint64_t>(below) / 8 > kFpMask)
            return std::nullopt;
        distance = static_cast<uint64_t>(below);
    } else if (rule.fp_kind != ValueKind::kSame) {
        return std::nullopt;
    }
    const uint64_t return_distance = arch::selected::return_distance(distance);
    if (return_distance == 0 || -int64_t{rule.ra_offset} != static_cast<int64_t>(return_distance))
        return std::nullopt;
    return PackedRule((from_fp ? kFromFp : 0) | cfa | distance / 8 << kFpShift | at);
}

std::optional<PackedRule> PackedRule::without_cfi(uint32_t place, bool frame_is_set_up) {
    if (place > kMaxPlace)
        return std::nullopt;
    // CFA = FP + 16; FP = [CFA − 16]
    return PackedRule((frame_is_set_up ? kFrameIsSetUp : 0) | kRoot | kFromFp | uint64_t{2} << kCfaShift |
                      uint64_t{2} << kFpShift | uint64_t{place} << kPlaceShift);
}

} // namespace dwunw::unwind
