// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Building goes in three passes: list the FDEs of every section with their ranges; sort them, and drop what is
// discarded or covered already; then run each one's CFI program straight into rows. An FDE whose program cannot be
// executed to its end is refused whole: half an FDE's rows would be right only by luck. Equality with readelf, row for
// row, is shown by tests/integration/table_readelf; with an independent interpreter by
// tests/unit/unwind_table_test.
#include "unwind/table.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <unordered_map>

namespace dwunw::unwind {
namespace {

struct RuleHash {
    size_t operator()(const Rule &rule) const {
        return std::hash<std::string_view>()({reinterpret_cast<const char *>(&rule), sizeof(rule)});
    }
};

} // namespace

class TableBuilder final : public dwarf::RowVisitor {
  public:
    TableBuilder(std::span<const dwarf::CfiSection> sections, const arch::Arch &arch)
        : sections_(sections), arch_(arch) {
        table_.arch_ = &arch;
    }

    Table build() {
        for (uint32_t i = 0; i < sections_.size(); ++i)
            list_fdes(i);
        select_fdes();
        compile_fdes();
        table_.rows_.shrink_to_fit();
        table_.rules_.shrink_to_fit();
        table_.fdes_.shrink_to_fit();
        return std::move(table_);
    }

    bool row(LinkAddr start, LinkAddr end, const dwarf::RowState &state) override {
        // An FDE that begins inside this one wins from its start on.
        if (start >= limit_)
            return false;
        auto rule = make_rule(state, *cie_, sections_[fde_->section].bytes(), arch_);
        if (!rule) {
            row_error_ = Status(rule.error());
            return false;
        }
        append(start, intern(*rule));
        return end < limit_;
    }

  private:
    void refuse(Error error, size_t offset, LinkAddr start = LinkAddr()) {
        table_.refusals_.push_back({error, offset, start});
    }

    void list_fdes(uint32_t index) {
        const dwarf::CfiSection &section = sections_[index];
        // FDEs mostly follow their CIE: the last one found answers nearly always.
        std::unordered_map<size_t, uint32_t> cie_at;
        size_t offset = 0;
        while (true) {
            auto entry = section.entry_at(offset);
            if (!entry) {
                refuse(entry.error(), offset);
                return;
            }
            if (entry->kind == dwarf::CfiSection::Entry::Kind::kEnd)
                return;
            offset = entry->next;
            if (entry->kind != dwarf::CfiSection::Entry::Kind::kFde)
                continue;
            auto [known, added] = cie_at.try_emplace(entry->cie_offset, kBadCie);
            if (added) {
                auto cie_entry = section.entry_at(entry->cie_offset);
                auto cie = cie_entry ? section.parse_cie(*cie_entry) : Result<dwarf::Cie>(cie_entry.error());
                if (cie) {
                    known->second = static_cast<uint32_t>(cies_.size());
                    cies_.push_back(*cie);
                } else {
                    refuse(cie.error(), entry->cie_offset);
                }
            }
            if (known->second == kBadCie) {
                refuse(Error{DWUNW_ERR_CFI_MALFORMED, entry->cie_offset}, entry->offset);
                continue;
            }
            auto fde = section.parse_fde(*entry, cies_[known->second]);
            if (!fde) {
                refuse(fde.error(), entry->offset);
                continue;
            }
            // Discarded code: linkers leave the FDE with its start (or all of it) zeroed.
            if (fde->start.value == 0 || fde->start == fde->end) {
                ++table_.tombstones_;
                continue;
            }
            listed_.push_back({fde->start, fde->end, index, known->second, entry->offset});
        }
    }

    void select_fdes() {
        std::stable_sort(listed_.begin(), listed_.end(), [](const FdeRef &a, const FdeRef &b) {
            return a.section != b.section ? a.section < b.section : a.start < b.start;
        });
        auto &chosen = table_.fdes_;
        const auto by_start = [](const FdeRef &a, const FdeRef &b) { return a.start < b.start; };
        for (size_t i = 0; i < listed_.size();) {
            const uint32_t section = listed_[i].section;
            const size_t earlier = chosen.size();
            for (; i < listed_.size() && listed_[i].section == section; ++i) {
                const FdeRef &fde = listed_[i];
                const auto begin = chosen.begin();
                const auto end = begin + static_cast<ptrdiff_t>(earlier);
                const auto after = std::upper_bound(begin, end, fde, by_start);
                const bool covered =
                    (after != begin && std::prev(after)->end > fde.start) || (after != end && after->start < fde.end);
                // Within a section, the first of several at one address stands.
                const bool repeated = chosen.size() > earlier && chosen.back().start == fde.start;
                if (!covered && !repeated)
                    chosen.push_back(fde);
            }
            std::inplace_merge(chosen.begin(), chosen.begin() + static_cast<ptrdiff_t>(earlier), chosen.end(),
                               by_start);
        }
        listed_ = {};
    }

    void compile_fdes() {
        auto &fdes = table_.fdes_;
        if (fdes.empty())
            return;
        table_.base_ = fdes.front().start;
        std::erase_if(fdes, [&](const FdeRef &fde) {
            const bool out_of_reach = fde.end - table_.base_ > std::numeric_limits<uint32_t>::max();
            if (out_of_reach)
                refuse(Error{DWUNW_ERR_LIMIT, fde.end.value}, fde.offset, fde.start);
            return out_of_reach;
        });

        for (size_t i = 0; i < fdes.size(); ++i) {
            const FdeRef &fde = fdes[i];
            const LinkAddr next = i + 1 < fdes.size() ? fdes[i + 1].start : LinkAddr(~uint64_t{0});
            compile_fde(fde, std::min(fde.end, next));
            if (next > fde.end)
                append(fde.end, Table::kGap);
        }
    }

    void compile_fde(const FdeRef &ref, LinkAddr limit) {
        fde_ = &ref;
        cie_ = &cies_[ref.cie];
        limit_ = limit;
        row_error_ = Status();
        const size_t rows_before = table_.rows_.size();
        first_row_ = rows_before;

        auto entry = sections_[ref.section].entry_at(ref.offset);
        auto parsed = entry ? sections_[ref.section].parse_fde(*entry, *cie_) : Result<dwarf::Fde>(entry.error());
        Status status = parsed ? dwarf::run_cfi_program(*parsed, *this) : Status(parsed.error());
        if (status.ok())
            status = row_error_;
        if (status.ok()) {
            ++table_.compiled_fdes_;
        } else {
            table_.rows_.resize(rows_before);
            append(ref.start, Table::kRefused);
            refuse(status.error(), ref.offset, ref.start);
        }
    }

    void append(LinkAddr start, uint32_t rule) {
        auto &rows = table_.rows_;
        // Adjacent equal rows of one FDE are one. Rows of different FDEs stay apart, so that a row tells where a
        // function's rules begin.
        if (rows.size() > first_row_ && rows.back().rule == rule)
            return;
        rows.push_back({static_cast<uint32_t>(start - table_.base_), rule});
    }

    uint32_t intern(const Rule &rule) {
        auto [found, added] = rule_numbers_.try_emplace(rule, static_cast<uint32_t>(table_.rules_.size()));
        if (added)
            table_.rules_.push_back(rule);
        return found->second;
    }

    static constexpr uint32_t kBadCie = 0xffffffff;

    std::span<const dwarf::CfiSection> sections_;
    const arch::Arch &arch_;
    Table table_;
    std::vector<dwarf::Cie> cies_;
    std::vector<FdeRef> listed_;
    std::unordered_map<Rule, uint32_t, RuleHash> rule_numbers_;

    // The FDE being compiled.
    const FdeRef *fde_ = nullptr;
    const dwarf::Cie *cie_ = nullptr;
    LinkAddr limit_;
    size_t first_row_ = 0;
    Status row_error_;
};

Table Table::build(std::span<const dwarf::CfiSection> sections, const arch::Arch &arch) {
    return TableBuilder(sections, arch).build();
}

Table::Lookup Table::lookup(LinkAddr address) const {
    const uint64_t offset = address - base_;
    if (address < base_ || offset > std::numeric_limits<uint32_t>::max())
        return {};
    const auto after = std::upper_bound(rows_.begin(), rows_.end(), static_cast<uint32_t>(offset),
                                        [](uint32_t value, const PackedRow &row) { return value < row.offset; });
    if (after == rows_.begin())
        return {};
    const LinkAddr end = after == rows_.end() ? LinkAddr(~uint64_t{0}) : base_ + after->offset;
    const LinkAddr start = base_ + std::prev(after)->offset;
    const uint32_t rule = std::prev(after)->rule;
    if (rule == kGap)
        return {DWUNW_ERR_NO_CFI, nullptr, start, end};
    if (rule == kRefused)
        return {DWUNW_ERR_CFI_MALFORMED, nullptr, start, end};
    return {DWUNW_OK, &rules_[rule], start, end};
}

const FdeRef *Table::find_fde(LinkAddr address) const {
    const auto after = std::upper_bound(fdes_.begin(), fdes_.end(), address,
                                        [](LinkAddr value, const FdeRef &fde) { return value < fde.start; });
    if (after == fdes_.begin())
        return nullptr;
    const FdeRef &fde = *std::prev(after);
    return address < fde.end ? &fde : nullptr;
}

Table::Row Table::row(size_t index) const {
    const PackedRow &packed = rows_[index];
    Row row;
    row.start = base_ + packed.offset;
    // The last row is a gap without end.
    row.end = index + 1 < rows_.size() ? base_ + rows_[index + 1].offset : LinkAddr(~uint64_t{0});
    if (packed.rule != kGap && packed.rule != kRefused)
        row.rule = &rules_[packed.rule];
    return row;
}

size_t Table::memory_bytes() const {
    return rows_.capacity() * sizeof(PackedRow) + rules_.capacity() * sizeof(Rule) + fdes_.capacity() * sizeof(FdeRef);
}

} // namespace dwunw::unwind
