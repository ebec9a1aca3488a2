// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The compiled unwind table of a module: immutable, in link addresses, one row wherever the rule changes.
//
// A row is 8 bytes: the offset of its first address from the table's base, and the number of its rule; it holds until
// the next row. Places that no FDE covers have rows too (gaps), so that a lookup is one search and an address past a
// function's end can never borrow its rules. Equal rules are stored once.
#pragma once

#include "arch/arch.h"
#include "base/address.h"
#include "base/result.h"
#include "dwarf/cfi_section.h"
#include "unwind/rule.h"

#include <span>
#include <vector>

namespace dwunw::unwind {

// An FDE that the table does not hold, and why.
struct Refusal {
    Error error;
    size_t section_offset = 0;
    LinkAddr start;
};

// Where an FDE begins and can be read again, for the full interpreter.
struct FdeRef {
    LinkAddr start;
    LinkAddr end;
    uint32_t section = 0; // index into the sections given to build()
    uint32_t cie = 0;     // the builder's own
    size_t offset = 0;
};

class Table {
  public:
    struct Row {
        LinkAddr start;
        LinkAddr end;
        const Rule *rule = nullptr; // nullptr: a gap
    };

    struct Lookup {
        // DWUNW_OK; DWUNW_ERR_NO_CFI in a gap; DWUNW_ERR_CFI_MALFORMED in an FDE that was refused.
        dwunw_status status = DWUNW_ERR_NO_CFI;
        const Rule *rule = nullptr;
        LinkAddr start; // of the row
        LinkAddr end;   // exclusive
    };

    // Sections come in order of preference: an FDE of a later one that overlaps one of an earlier one is left out.
    static Table build(std::span<const dwarf::CfiSection> sections, const arch::Arch &arch);

    // Thread-safe; allocates nothing.
    Lookup lookup(LinkAddr address) const;
    // The FDE that covers an address, nullptr where none does.
    const FdeRef *find_fde(LinkAddr address) const;

    size_t row_count() const { return rows_.size(); }
    Row row(size_t index) const; // gaps and refused FDEs included

    const arch::Arch *arch() const { return arch_; }
    size_t rule_count() const { return rules_.size(); }
    size_t fde_count() const { return compiled_fdes_; } // those that have rows
    size_t tombstone_count() const { return tombstones_; }
    const std::vector<Refusal> &refusals() const { return refusals_; }
    size_t memory_bytes() const;

  private:
    friend class TableBuilder;

    struct PackedRow {
        uint32_t offset; // from base_
        uint32_t rule;   // an index into rules_, or one of the two below
    };
    static_assert(sizeof(PackedRow) == 8);
    static constexpr uint32_t kGap = 0xffffffff;
    static constexpr uint32_t kRefused = 0xfffffffe;

    LinkAddr base_;
    std::vector<PackedRow> rows_;
    std::vector<Rule> rules_;
    std::vector<FdeRef> fdes_; // ascending by start
    std::vector<Refusal> refusals_;
    size_t tombstones_ = 0;
    size_t compiled_fdes_ = 0;
    const arch::Arch *arch_ = nullptr;
};

} // namespace dwunw::unwind
