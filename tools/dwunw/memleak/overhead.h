// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the probes cost the watched programs, and a bound on it.
//
// The cost of a call depends on the machine: a trap takes 0.7 to 15 µs. So it is measured at the start, by probing a
// child of this program for some milliseconds, once with every allocation recorded and once with almost none. From then
// on the number of calls tells the cost:
//
//     100,000 calls a second, all recorded, at 1.2 µs   →   12 % of one core
//
// If that is more than --max-overhead allows for some seconds, fewer allocations are recorded: one in 2, 4, … 64. If
// that is not enough, nothing but taking the probes away helps, because the trap is the floor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace dwunw_tool::memleak {

// Nanoseconds of the program's time for a call of malloc or free.
struct CallCost {
    double recorded = 0;   // with a stack of some thirty frames
    double unrecorded = 0; // the traps alone
};

// Calls since some moment.
struct CallCounts {
    uint64_t calls = 0;    // all that hit a probe's entry
    uint64_t recorded = 0; // of these, allocations that were recorded, and their frees
};

class Overhead {
  public:
    // `most`: percent of one core; nullopt: no bound.
    Overhead(CallCost cost, std::optional<double> most) : cost_(cost), most_(most) {}

    enum class Action { kGoOn, kRecordLess, kGiveUp };
    // Takes in the counts of a moment, and says what to do. Call it about once a second.
    Action update(uint64_t now_ns, const CallCounts &counts);

    double percent() const { return percent_; } // of one core, in the last interval
    double calls_per_second() const { return per_second_; }
    // log2 of how many allocations one recorded one stands for.
    unsigned shift() const { return shift_; }
    // Why it gives up, and what is possible, in words.
    std::string why() const;

    static constexpr unsigned kMaxShift = 6;

  private:
    static constexpr unsigned kPatience = 3; // intervals above the bound in a row

    CallCost cost_;
    std::optional<double> most_;
    std::optional<uint64_t> last_ns_;
    CallCounts last_;
    double percent_ = 0, per_second_ = 0;
    unsigned above_ = 0, shift_ = 0;
};

} // namespace dwunw_tool::memleak
