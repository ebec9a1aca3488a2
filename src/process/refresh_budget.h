// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Limits how often a walk may cause a process's map to be read. Without a limit, a program with garbage on its stacks
// would have its map read at every frame.
//
// Two rules, both needed:
//
//   Share      Reading maps takes at most 1/kShare of the time, plus a reserve of kReserve, which covers a start-up
//   with
//              many dlopens. A map of 3,000 mappings takes some 2 ms to read, so the reserve covers 50 readings.
//   Memory     A page that was just found to be unmapped is not asked about again for kForget. A garbage pc comes again
//              and again, and would use up the share that a real dlopen needs.
//
// Not thread-safe. The caller gives the time, in nanoseconds of a monotonic clock.
#pragma once

#include "base/address.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace dwunw::process {

class RefreshBudget {
  public:
    static constexpr uint64_t kShare = 20;
    static constexpr uint64_t kReserve = 100'000'000;
    static constexpr uint64_t kForget = 100'000'000;

    bool allows(uint64_t now);
    void spent(uint64_t now, uint64_t duration);

    bool known_unmapped(RunAddr address, uint64_t now) const;
    void remember_unmapped(RunAddr address, uint64_t now);

  private:
    static constexpr size_t kPages = 64;
    static constexpr int kPageShift = 12; // the smallest page size; here only a unit
    struct Page {
        uint64_t number = UINT64_MAX;
        uint64_t forget_at = 0;
    };
    static size_t slot_of(uint64_t page) { return (page * 0x9e3779b97f4a7c15u) >> 58; }
    static_assert(kPages == uint64_t{1} << (64 - 58));

    int64_t credit_ = kReserve; // negative after a reading that took longer than the rest
    uint64_t updated_ = 0;
    std::array<Page, kPages> pages_;
};

} // namespace dwunw::process
