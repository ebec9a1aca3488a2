// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The compiled unwind table of a module: immutable, in link addresses. doc/table_format.md has the layout: four arrays
// of plain integers, which the walk in BPF reads, too.
#pragma once

#include "arch/arch.h"
#include "base/address.h"
#include "base/result.h"
#include "dwarf/cfi_section.h"
#include "unwind/fde_list.h"
#include "unwind/lost_sp.h"
#include "unwind/rule.h"

#include <dwunw/bpf/dwunw_table_format.h>

#include <array>
#include <span>
#include <vector>

namespace dwunw::unwind {

// The format's numbers, typed; the walk in the kernel has the same ones.
namespace table_format {

inline constexpr unsigned kPageBits = DWUNW_TABLE_PAGE_BITS;
inline constexpr unsigned kBlockBits = DWUNW_TABLE_BLOCK_BITS;
inline constexpr size_t kBlocks = DWUNW_TABLE_BLOCKS;
inline constexpr uint32_t kUniformPage = DWUNW_TABLE_UNIFORM_PAGE;
inline constexpr unsigned kSlotBits = DWUNW_TABLE_SLOT_BITS;
inline constexpr uint16_t kEscape = DWUNW_TABLE_ESCAPE;
inline constexpr unsigned kEntryBits = DWUNW_TABLE_ENTRY_BITS;
inline constexpr uint32_t kMaxPad = DWUNW_TABLE_MAX_GAP;
inline constexpr uint32_t kGap = DWUNW_TABLE_GAP;
inline constexpr uint32_t kRefused = DWUNW_TABLE_REFUSED;
inline constexpr uint32_t kFirstRule = DWUNW_TABLE_FIRST_RULE;

// A row whose entry is in no dictionary.
struct Overflow {
    uint32_t unit; // the row's unit; ascending
    uint32_t entry;
};

} // namespace table_format

class Table {
  public:
    struct Lookup {
        // DWUNW_OK; DWUNW_ERR_NO_CFI in a gap; DWUNW_ERR_CFI_MALFORMED in an FDE that was refused.
        dwunw_status status = DWUNW_ERR_NO_CFI;
        const Rule *rule = nullptr;
    };
    struct Row : Lookup {
        // The answer holds at least up to here.
        LinkAddr end;
    };

    // `index` must be of the same sections. If `read_code` shows that a row is wrong, its rule is CfaKind::kLost.
    // Without `read_code`, the table has the sections' own rows.
    static Table build(std::span<const dwarf::CfiSection> sections, const FdeList &index, const arch::Arch &arch,
                       const ReadCode &read_code = {});

    // Thread-safe; allocates nothing.
    Lookup lookup(LinkAddr address) const {
        const uint64_t offset = address - base_;
        if (offset >> table_format::kPageBits >= pages_.size())
            return {};
        return entry_lookup(find(static_cast<uint32_t>(offset)));
    }
    Row row_at(LinkAddr address) const;

    const arch::Arch *arch() const { return arch_; }
    size_t rule_count() const { return rules_.size(); }
    size_t fde_count() const { return compiled_fdes_; } // those that have rows
    // FDEs that could be listed but not executed; FdeList has those that could not be listed. Keeps the first
    // kMaxRefusals of refusal_count().
    const std::vector<Refusal> &refusals() const { return refusals_; }
    size_t refusal_count() const { return refusal_count_; }
    // The memory of the arrays.
    size_t memory_bytes() const;

    // The arrays, for another reader (doc/table_format.md).
    LinkAddr base() const { return base_; }
    std::span<const uint32_t> pages() const { return pages_; }
    std::span<const uint16_t> units() const { return units_; }
    std::span<const Rule> rules() const { return rules_; }
    std::span<const table_format::Overflow> overflow() const { return overflow_; }

  private:
    friend class TableBuilder;

    uint32_t find(uint32_t offset) const;
    uint32_t overflow_entry(uint32_t unit) const;
    Lookup entry_lookup(uint32_t entry) const {
        if (entry >= table_format::kFirstRule) [[likely]]
            return {DWUNW_OK, &rules_[entry - table_format::kFirstRule]};
        return {entry == table_format::kGap ? DWUNW_ERR_NO_CFI : DWUNW_ERR_CFI_MALFORMED, nullptr};
    }

    LinkAddr base_;
    std::vector<uint32_t> pages_; // one for each page, from base_ on
    std::vector<uint16_t> units_;
    std::vector<Rule> rules_;
    std::vector<table_format::Overflow> overflow_;
    std::vector<Refusal> refusals_;
    size_t refusal_count_ = 0;
    size_t compiled_fdes_ = 0;
    const arch::Arch *arch_ = nullptr;
};

} // namespace dwunw::unwind
