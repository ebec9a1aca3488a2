// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Chooses the place of a probe from one function's bytes (dwunw/probe_placement.h has the rules).
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <dwunw/probe_placement.h>

#include <functional>
#include <span>
#include <string>

namespace dwunw::probe {

inline constexpr size_t kMaxSkipped = 8;                  // the most instructions passed over
inline constexpr uint64_t kMaxFunctionBytes = 1ULL << 22; // the largest functions of generated parsers are smaller

// (entry, probe]: bytes that execution may reach only from the byte before.
struct EntryRange {
    LinkAddr after;
    LinkAddr last;
    bool contains(LinkAddr address) const { return address > after && address <= last; }
};

// Facts about a function that only its file knows.
class Surroundings {
  public:
    virtual ~Surroundings() = default;
    virtual bool is_loaded(LinkAddr address, uint64_t size) const = 0;
    // Whether `address` is a slot that only the linker fills: a jump through it goes to another function.
    virtual bool is_got(LinkAddr address, uint64_t size) const = 0;
    // The code outside the function that enters the range, in words; empty: none does.
    virtual Result<std::string> other_way_in(EntryRange range) const = 0;
};

struct Placement {
    uint64_t offset = 0;
    dwunw_probe_why why = DWUNW_PROBE_ENTRY_IS_EMULATED;
    bool emulated = false;
    std::string reason;
};

// `code`: the whole function; its first byte lies at `entry`. `surroundings` may be nullptr. Errors are other_way_in's.
Result<Placement> place(std::span<const uint8_t> code, LinkAddr entry, const dwunw_probe_options &options,
                        const Surroundings *surroundings);
// Answers the entry, for a reason that is known without the code; `code` may be empty.
Placement place_at_entry(std::span<const uint8_t> code, LinkAddr entry, const dwunw_probe_options &options,
                         dwunw_probe_why why, const std::string &reason);

} // namespace dwunw::probe
