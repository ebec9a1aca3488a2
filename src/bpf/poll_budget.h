// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Limits the records and the time of one poll. A record may need its process's map to be read, and the process decides
// how large that map is.
//
// Proved by tests/unit/bpf_poll_budget_test.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dwunw::bpf {

class PollBudget {
  public:
    static constexpr size_t kRecords = 16384;
    static constexpr uint64_t kTime = 200'000'000; // ns, from the first record

    // Counts a record that was taken in at `now`. True: the poll must end.
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
