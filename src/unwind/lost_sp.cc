// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/unwind_lost_sp_test, and for whole walks by unwind_walk_test.
#include "unwind/lost_sp.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace dwunw::unwind {
namespace {

constexpr uint64_t kPiece = uint64_t{256} << 10;
// Bytes behind a piece that an instruction at its end may need.
constexpr uint64_t kBehind = 8;

} // namespace

arch::SpRow LostSp::row(uint32_t start, const Rule &rule, const arch::Arch &arch) {
    const bool from_sp = rule.cfa_kind == CfaKind::kRegister && rule.cfa_reg == arch.sp && !rule.signal_frame &&
                         rule.ra_kind != ValueKind::kUndefined;
    return {start, from_sp, rule.cfa_offset};
}

void LostSp::read_piece(LinkAddr start, LinkAddr end) {
    const uint64_t wanted = order_ == Order::kAscending ? kPiece : std::min(kPiece, end - start);
    piece_.resize(wanted + kBehind);
    piece_.resize(std::min(read_(start, piece_), piece_.size()));
    piece_start_ = start;
    piece_end_ = start + std::min<uint64_t>(wanted, piece_.size());
    next_ = start + arch_.find_sp_replacement(piece_, 0);
}

bool LostSp::may_replace(LinkAddr start, LinkAddr end) {
    if (!read_ || start >= end)
        return false;
    if (end - start > kMaxLookedAt)
        return true;
    for (LinkAddr at = start; at < end; at = piece_end_) {
        if (at < piece_start_ || at >= piece_end_)
            read_piece(at, end);
        if (piece_start_ == piece_end_)
            return false; // unreadable code is left out
        if (next_ < at)
            next_ = piece_start_ + arch_.find_sp_replacement(piece_, at - piece_start_);
        if (next_ < piece_end_)
            return next_ < end;
    }
    return false;
}

// Functions that keep their frame in another register replace SP often, and need not be followed.
bool LostSp::may_contradict(std::span<const uint8_t> code, std::span<const arch::SpRow> rows) const {
    auto row = rows.begin();
    for (size_t place = arch_.find_sp_replacement(code, 0); place < code.size();
         place = arch_.find_sp_replacement(code, place + 1)) {
        while (row != rows.end() && std::next(row) != rows.end() && std::next(row)->start <= place)
            ++row;
        if (row != rows.end() && row->from_sp)
            return true;
    }
    return false;
}

std::span<const arch::CodeRange> LostSp::find(LinkAddr start, LinkAddr end, std::span<const arch::SpRow> rows) {
    lost_.clear();
    if (end - start > kMaxFollowed) {
        constexpr uint64_t kEnd = std::numeric_limits<uint32_t>::max();
        const uint64_t first = end - start > kMaxLookedAt ? 0 : next_ - start;
        lost_.push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(std::min(end - start, kEnd))});
        return lost_;
    }
    function_.resize(end - start);
    const size_t got = read_(start, function_);
    const auto code = std::span<const uint8_t>(function_).first(std::min(got, function_.size()));
    if (may_contradict(code, rows))
        arch_.find_lost_sp(code, rows, lost_);
    return lost_;
}

} // namespace dwunw::unwind
