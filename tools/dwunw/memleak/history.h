// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the reports so far say about a row: whether it grows, how fast, and whether its old blocks stay.
//
//     report      1      2      3      4
//     bytes     100    300    500    700     grew in 3 of 3 reports, 40.0 B/s with reports every 5 s
//
// A leak grows in every report. A cache grows and stops; a working set goes up and down. So the score is the growth per
// second over the later half of the reports, times the share of reports in which the row grew. Before the second report
// the score is 0, and rows are ranked by bytes.
//
// Not thread-safe. Pure arithmetic: tests/unit/tools_memleak_history_test.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dwunw_tool::memleak {

// A row of one report, as the history needs it.
struct Sighting {
    uint64_t key; // the same for the same call chain and kind of memory
    uint64_t bytes;
    uint64_t count;
    uint64_t oldest; // the birth of its oldest block, ns
};

struct Trend {
    unsigned reports = 0;        // intervals between reports in which the row could have grown
    unsigned grew = 0;           // those in which it did
    double bytes_per_second = 0; // over the later half
    bool oldest_stays = false;   // its oldest block was the same in all reports
    uint64_t oldest_age_ns = 0;
    int64_t change = 0; // bytes since the report before
    double score = 0;
};

class History {
  public:
    // Takes in a report of the moment `now_ns`.
    void add(uint64_t now_ns, const std::vector<Sighting> &rows);
    Trend trend(uint64_t key) const;
    // In words, e.g. "grew in 9 of 9 reports, 1.2 KiB/s; its oldest block, 45 s old, was never freed".
    static std::string words(const Trend &trend);

  private:
    struct Point {
        uint64_t time, bytes;
    };
    struct Seen {
        std::vector<Point> points;
        unsigned reports = 0, grew = 0;
        uint64_t oldest = 0;
        bool oldest_stays = true;
        int64_t change = 0;
    };
    static constexpr size_t kMaxPoints = 64; // of a row; older ones are thinned out
    std::map<uint64_t, Seen> seen_;
    uint64_t now_ = 0;
    unsigned reports_ = 0;
};

// "1.2 KiB", "17 B"
std::string in_units(double bytes);

} // namespace dwunw_tool::memleak
