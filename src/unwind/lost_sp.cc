// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/unwind_lost_sp_test and, as the walks see it, by unwind_walk_test.
#include "unwind/lost_sp.h"

#include <algorithm>
#include <limits>

namespace dwunw::unwind {
namespace {

constexpr uint64_t kPiece = uint64_t{256} << 10;
// What an instruction that begins in a piece may have behind it, for the search's sake.
constexpr uint64_t kBehind = 8;

} // namespace

arch::SpRow LostSp::row(uint32_t start, const Rule &rule, const arch::Arch &arch) {
    const bool from_sp = rule.cfa_kind == CfaKind::kRegister && rule.cfa_reg == arch.sp && !rule.signal_frame &&
                         rule.ra_kind != ValueKind::kUndefined;
    return {start, from_sp, rule.cfa_offset};
}

// Every place in [start, end) is looked at once. What cannot be read is left out.
void LostSp::look_at(LinkAddr start, LinkAddr end) {
    LinkAddr at = std::max(start, looked_until_);
    while (at < end) {
        const uint64_t wanted = order_ == Order::kAscending ? kPiece : std::min(kPiece, end - at);
        piece_.resize(wanted + kBehind);
        const size_t got = read_(at, piece_);
        const auto code = std::span<const uint8_t>(piece_).first(got);
        const uint64_t looked = std::min<uint64_t>(wanted, got);
        for (size_t place = arch_.find_sp_replacement(code, 0); place < looked;
             place = arch_.find_sp_replacement(code, place + 1))
            found_.push_back(at + place);
        at = looked != 0 ? at + looked : end;
        looked_until_ = at;
    }
}

bool LostSp::may_replace(LinkAddr start, LinkAddr end) {
    if (!read_ || start >= end)
        return false;
    look_at(start, end);
    while (first_found_ < found_.size() && found_[first_found_] < start)
        ++first_found_;
    return first_found_ < found_.size() && found_[first_found_] < end;
}

std::span<const arch::CodeRange> LostSp::find(LinkAddr start, LinkAddr end, std::span<const arch::SpRow> rows) {
    lost_.clear();
    if (end - start > kMaxFollowed) {
        const uint64_t first = found_[first_found_] - start;
        constexpr uint64_t kEnd = std::numeric_limits<uint32_t>::max();
        lost_.push_back(
            {static_cast<uint32_t>(std::min(first, kEnd)), static_cast<uint32_t>(std::min(end - start, kEnd))});
        return lost_;
    }
    function_.resize(end - start);
    const size_t got = read_(start, function_);
    arch_.find_lost_sp(std::span<const uint8_t>(function_).first(got), rows, lost_);
    return lost_;
}

} // namespace dwunw::unwind
