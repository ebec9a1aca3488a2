// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/refresh_budget.h"

#include <algorithm>

namespace dwunw::process {

bool RefreshBudget::allows(uint64_t now) {
    if (now > updated_) {
        const auto earned = static_cast<int64_t>(std::min((now - updated_) / kShare, uint64_t{INT64_MAX}));
        const auto room = static_cast<int64_t>(kReserve) - credit_;
        credit_ += std::min(earned, room);
        updated_ = now;
    }
    return credit_ > 0;
}

void RefreshBudget::spent(uint64_t now, uint64_t duration) {
    // Time that passes during a reading earns nothing, because the budget limits the reading itself.
    updated_ = std::max(updated_, now);
    // A machine that was suspended during a reading does not have a slow map.
    constexpr uint64_t kLongestRead = 1'000'000'000;
    credit_ -= static_cast<int64_t>(std::min(duration, kLongestRead));
}

bool RefreshBudget::known_unmapped(RunAddr address, uint64_t now) const {
    const uint64_t number = address.value >> kPageShift;
    const Page &page = pages_[slot_of(number)];
    return page.number == number && now < page.forget_at;
}

void RefreshBudget::remember_unmapped(RunAddr address, uint64_t now) {
    const uint64_t number = address.value >> kPageShift;
    pages_[slot_of(number)] = {number, now + kForget};
}

} // namespace dwunw::process
