// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// How much one poll takes in, however much more there is: so many records, or those of so much time. A record may cost
// a reading of its process's map, and how large that is is the process's own choice.
//
// Proved by tests/unit/bpf_poll_budget_test.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dwunw::bpf {

class PollBudget {
  public:
    static constexpr size_t kRecords = 16384;
    static constexpr uint64_t kTime = 200'000'000; // ns, from the first record on

    // One more record, taken in by `now`; true: enough.
    bool add(uint64_t now) {
        if (taken_++ == 0)
            until_ = now + kTime;
        full_ = taken_ >= kRecords || now >= until_;
        return full_;
    }
    size_t taken() const { return taken_; }
    bool full() const { return full_; }

  private:
    size_t taken_ = 0;
    uint64_t until_ = 0;
    bool full_ = false;
};

} // namespace dwunw::bpf
