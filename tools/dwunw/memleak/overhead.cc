// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/overhead.h"

#include <algorithm>
#include <cstdio>

namespace dwunw_tool::memleak {

Overhead::Action Overhead::update(uint64_t now_ns, const CallCounts &counts) {
    const auto before_ns = last_ns_;
    const CallCounts before = last_;
    last_ns_ = now_ns;
    last_ = counts;
    if (!before_ns || now_ns <= *before_ns)
        return Action::kGoOn;
    const double ns = static_cast<double>(now_ns - *before_ns);
    const double calls = static_cast<double>(counts.calls - before.calls);
    const double recorded = std::min(calls, static_cast<double>(counts.recorded - before.recorded));
    percent_ = 100 * (recorded * cost_.recorded + (calls - recorded) * cost_.unrecorded) / ns;
    per_second_ = calls * 1e9 / ns;
    if (!most_ || percent_ <= *most_) {
        above_ = 0;
        return Action::kGoOn;
    }
    if (++above_ < kPatience)
        return Action::kGoOn;
    above_ = 0;
    // The traps alone are too many, or nothing is left to leave out.
    const double floor = 100 * calls * cost_.unrecorded / ns;
    if (floor > *most_ || shift_ == kMaxShift)
        return Action::kGiveUp;
    ++shift_;
    return Action::kRecordLess;
}

std::string Overhead::why() const {
    const double possible = most_ && cost_.unrecorded > 0 ? *most_ / 100 * 1e9 / cost_.unrecorded : 0;
    char text[256];
    std::snprintf(text, sizeof text,
                  "%.0f calls a second cost %.1f %% of a core, which is more than --max-overhead=%g. A probe alone "
                  "costs %.2f us here, so this bound allows %.0f calls a second",
                  per_second_, percent_, most_.value_or(0), cost_.unrecorded / 1000, possible);
    return text;
}

} // namespace dwunw_tool::memleak
