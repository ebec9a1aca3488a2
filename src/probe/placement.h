// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Where to put a probe, decided from one function's bytes (dwunw/probe_placement.h has the rules).
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <dwunw/probe_placement.h>

#include <functional>
#include <span>
#include <string>

namespace dwunw::probe {

inline constexpr size_t kMaxSkipped = 8;                  // instructions passed over
inline constexpr uint64_t kMaxFunctionBytes = 1ULL << 22; // the largest functions of generated parsers are below it

// Bytes at which nothing but falling through from before may arrive: (entry, probe].
struct EntryRange {
    LinkAddr after;
    LinkAddr last;
    bool contains(LinkAddr address) const { return address > after && address <= last; }
};

// What the function's file knows about it.
class Surroundings {
  public:
    virtual ~Surroundings() = default;
    virtual bool is_loaded(LinkAddr address, uint64_t size) const = 0;
    // Whether `address` is a slot that only the linker fills: a jump through it leaves for a whole function.
    virtual bool is_got(LinkAddr address, uint64_t size) const = 0;
    // What enters the range from outside the function's own instructions, in words; empty: nothing does.
    virtual Result<std::string> other_way_in(EntryRange range) const = 0;
};

struct Placement {
    uint64_t offset = 0;
    dwunw_probe_why why = DWUNW_PROBE_ENTRY_IS_EMULATED;
    bool emulated = false;
    std::string reason;
};

// `code`: the function from its first byte, which lies at `entry`, to its end. `surroundings` may be nullptr. Errors
// are other_way_in's.
Result<Placement> place(std::span<const uint8_t> code, LinkAddr entry, const dwunw_probe_options &options,
                        const Surroundings *surroundings);
// The entry, because of something that is known without its code; `code` may be empty.
Placement place_at_entry(std::span<const uint8_t> code, LinkAddr entry, const dwunw_probe_options &options,
                         dwunw_probe_why why, const std::string &reason);

} // namespace dwunw::probe
