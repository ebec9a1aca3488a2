// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Building runs each FDE's CFI program and passes the rows to the writer. If an FDE's program cannot be executed to its
// end, the whole FDE is refused: a part of its rows would be right only by luck. Compilers write the same few hundred
// states again and again. So a small cache maps a state to its entry, before the state becomes a rule and the rule a
// number. That makes the build fast (bench/README.md).
//
// Proved row for row by tests/integration/table_readelf, which compares with readelf, and by
// tests/unit/unwind_table_test, which compares with an independent interpreter.
#include "unwind/table.h"

#include "unwind/table_writer.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <unordered_map>

namespace dwunw::unwind {

using namespace table_format;

namespace {

struct RuleHash {
    size_t operator()(const Rule &rule) const {
        return std::hash<std::string_view>()({reinterpret_cast<const char *>(&rule), sizeof(rule)});
    }
};

} // namespace

class TableBuilder final : public dwarf::TableProgram::Visitor {
  public:
    TableBuilder(std::span<const dwarf::CfiSection> sections, const FdeList &index, const arch::Arch &arch,
                 const ReadCode &read_code)
        : sections_(sections), index_(index), arch_(arch), program_({arch.sp, arch.fp, arch.ra}),
          initial_(index.cies().size()), cache_(size_t{1} << kCacheBits),
          lost_sp_(read_code, arch, LostSp::Order::kAscending) {
        table_.arch_ = &arch;
    }

    Table build() {
        const auto fdes = index_.fdes();
        if (!fdes.empty()) {
            base_ = fdes.front().start.value & ~uint64_t{(1u << kPageBits) - 1};
            table_.base_ = LinkAddr(base_);
            size_t bytes = 0;
            for (const dwarf::CfiSection &section : sections_)
                bytes += section.bytes().size();
            writer_.units.reserve(bytes / kBytesPerUnit); // untouched memory costs nothing
        }
        for (size_t i = 0; i < fdes.size(); ++i) {
            const FdeRef &fde = fdes[i];
            if (fde.end.value - base_ > std::numeric_limits<uint32_t>::max() || writer_.units.size() > kMaxUnits) {
                refuse(Error{DWUNW_ERR_LIMIT, fde.end.value}, fde);
                continue;
            }
            const LinkAddr next = i + 1 < fdes.size() ? fdes[i + 1].start : LinkAddr(~uint64_t{0});
            compile(fde, std::min(fde.end, next));
            if (next > fde.end)
                writer_.add(static_cast<uint32_t>(fde.end.value - base_), kGap);
        }
        writer_.finish();
        table_.pages_ = std::move(writer_.pages);
        table_.units_.assign(writer_.units.begin(), writer_.units.end());
        table_.overflow_ = std::move(writer_.overflow);
        table_.rules_.shrink_to_fit();
        return std::move(table_);
    }

    bool row(LinkAddr start, const dwarf::TableState &state) override {
        // An FDE that begins inside this one takes over from its start on. But an invalid row behind that start also
        // invalidates this FDE, because it does so when the FDE is executed alone.
        if (start >= limit_) {
            if (auto rule = make_rule(state, index_.cies()[fde_->cie], sections_[fde_->section].bytes(), arch_); !rule)
                row_error_ = rule.error();
            return row_error_.ok();
        }
        const uint64_t key = brief(state);
        Cached &cached = cache_[key * 0x9e3779b97f4a7c15u >> (64 - kCacheBits)];
        if (cached.brief != key || key == 0) [[unlikely]] {
            const auto entry = make_entry(state);
            if (!entry) {
                row_error_ = entry.error();
                return false;
            }
            cached = {key, *entry};
        }
        if (rows_.empty() || rows_.back().second != cached.entry)
            rows_.emplace_back(static_cast<uint32_t>(start.value - base_), cached.entry);
        return true;
    }

  private:
    static constexpr size_t kBytesPerUnit = 4; // most files have a unit for six bytes of a section
    // A table of 2 GiB: a reference to a unit has 31 bits.
    static constexpr size_t kMaxUnits = size_t{1} << 30;

    void refuse(Error error, const FdeRef &fde) {
        ++table_.refusal_count_;
        if (table_.refusals_.size() < kMaxRefusals)
            table_.refusals_.push_back({error, fde.offset, fde.start});
    }

    void compile(const FdeRef &ref, LinkAddr limit) {
        fde_ = &ref;
        limit_ = limit;
        rows_.clear();
        row_error_ = Status();
        brief_of_fde_ = brief_of(ref);
        if (auto status = run(ref); !status) {
            refuse(status.error(), ref);
            writer_.add(static_cast<uint32_t>(ref.start.value - base_), kRefused);
            return;
        }
        ++table_.compiled_fdes_;
        if (lost_sp_.may_replace(ref.start, limit))
            leave_out_lost(ref.start, limit);
        for (const auto &[offset, entry] : rows_)
            writer_.add(offset, entry);
    }

    // Replaces the rows of this FDE that its code contradicts.
    void leave_out_lost(LinkAddr start, LinkAddr end) {
        const auto first = static_cast<uint32_t>(start.value - base_);
        sp_rows_.clear();
        for (const auto &[offset, entry] : rows_)
            sp_rows_.push_back(LostSp::row(offset - first, table_.rules_[entry - kFirstRule], arch_));
        const auto lost = lost_sp_.find(start, end, sp_rows_);
        if (lost.empty())
            return;
        const uint32_t lost_entry = entry_of(LostSp::lost_rule());
        const auto length = static_cast<uint32_t>(end - start);
        std::vector<std::pair<uint32_t, uint32_t>> kept;
        const auto add = [&](uint32_t offset, uint32_t entry) {
            if (kept.empty() || kept.back().second != entry)
                kept.emplace_back(first + offset, entry);
        };
        auto range = lost.begin();
        for (size_t i = 0; i < sp_rows_.size(); ++i) {
            uint32_t at = sp_rows_[i].start;
            const uint32_t row_end = i + 1 < sp_rows_.size() ? sp_rows_[i + 1].start : length;
            while (at < row_end) {
                while (range != lost.end() && range->end <= at)
                    ++range;
                const bool inside = range != lost.end() && range->start <= at;
                add(at, inside && sp_rows_[i].from_sp ? lost_entry : rows_[i].second);
                const uint32_t next = range == lost.end() ? row_end : inside ? range->end : range->start;
                at = std::min(next, row_end);
            }
        }
        rows_ = std::move(kept);
    }

    Status run(const FdeRef &ref) {
        const dwarf::CfiSection &section = sections_[ref.section];
        const dwarf::Cie &cie = index_.cies()[ref.cie];
        auto &initial = initial_[ref.cie];
        if (!initial)
            initial.emplace(program_.initial_state(cie));
        if (!*initial)
            return initial->error();
        auto entry = section.entry_at(ref.offset);
        if (!entry)
            return entry.error();
        auto fde = section.parse_fde(*entry, cie);
        if (!fde)
            return fde.error();
        const Status status = program_.run(*fde, **initial, *this);
        return status.ok() ? row_error_ : status;
    }

    // A state's brief and its entry. Brief 0 is an empty one.
    struct Cached {
        uint64_t brief = 0;
        uint32_t entry = 0;
    };
    static constexpr unsigned kCacheBits = 10;

    // The part of an FDE that decides its rules; 0: none of its states has a brief.
    uint64_t brief_of(const FdeRef &fde) const {
        const dwarf::Cie &cie = index_.cies()[fde.cie];
        if (cie.return_address_register != arch_.ra || fde.section > 1)
            return 0;
        return uint64_t{fde.section} << 2 | uint64_t{cie.signal_frame} << 1 | 1;
    }
    // A state in one number, together with everything else that decides its rule; 0: the state does not fit.
    uint64_t brief(const dwarf::TableState &state) const {
        using dwarf::RuleKind;
        constexpr int64_t kFpBias = 1 << 19;
        if (state.cfa.kind != dwarf::CfaRule::Kind::kRegister || state.sp.kind != RuleKind::kUnspecified ||
            state.ra.kind != RuleKind::kOffset || brief_of_fde_ == 0)
            return 0;
        const bool fp_saved = state.fp.kind == RuleKind::kOffset;
        if (!fp_saved && state.fp.kind != RuleKind::kUnspecified && state.fp.kind != RuleKind::kSameValue)
            return 0;
        const auto cfa = static_cast<uint64_t>(state.cfa.value);
        const auto fp = fp_saved ? static_cast<uint64_t>(state.fp.value + kFpBias) : 0;
        const auto ra = static_cast<uint64_t>(-state.ra.value);
        if ((cfa >> 24 | fp >> 20 | ra >> 8) != 0)
            return 0;
        return cfa << 40 | fp << 20 | ra << 12 | uint64_t{state.cfa.reg} << 4 | uint64_t{fp_saved} << 3 | brief_of_fde_;
    }

    Result<uint32_t> make_entry(const dwarf::TableState &state) {
        const dwarf::Cie &cie = index_.cies()[fde_->cie];
        const auto rule = make_rule(state, cie, sections_[fde_->section].bytes(), arch_);
        if (!rule)
            return rule.error();
        return entry_of(*rule);
    }
    uint32_t entry_of(const Rule &rule) {
        const auto [found, added] =
            numbers_.try_emplace(rule, static_cast<uint32_t>(table_.rules_.size() + kFirstRule));
        if (added)
            table_.rules_.push_back(rule);
        return found->second;
    }

    std::span<const dwarf::CfiSection> sections_;
    const FdeList &index_;
    const arch::Arch &arch_;
    dwarf::TableProgram program_;
    std::vector<std::optional<Result<dwarf::TableState>>> initial_; // by CIE
    std::vector<Cached> cache_;
    std::unordered_map<Rule, uint32_t, RuleHash> numbers_;
    uint64_t base_ = 0;
    Table table_;
    TableWriter writer_;
    LostSp lost_sp_;
    std::vector<arch::SpRow> sp_rows_;

    // The FDE being compiled.
    const FdeRef *fde_ = nullptr;
    LinkAddr limit_;
    uint64_t brief_of_fde_ = 0;
    std::vector<std::pair<uint32_t, uint32_t>> rows_; // offset, entry
    Status row_error_;
};

Table Table::build(std::span<const dwarf::CfiSection> sections, const FdeList &index, const arch::Arch &arch,
                   const ReadCode &read_code) {
    return TableBuilder(sections, index, arch, read_code).build();
}

namespace {

// One page's arrays within the units, and the position of an offset in it.
struct PagePosition {
    PagePosition(const uint16_t *page, uint32_t offset)
        : rows(page + kBlocks), count(page[0] + 1u), block((offset >> kBlockBits) & (kBlocks - 1)),
          within(offset & ((1u << kBlockBits) - 1)) {
        const unsigned first = block == 0 ? 0 : page[block];
        last = block + 1 == kBlocks ? count : page[block + 1];
        const auto key = static_cast<uint16_t>(within << kSlotBits | kEscape);
        // Finds, without branches, the first row of the block behind the offset: `after`.
        const uint16_t *base = rows + first;
        size_t left = last - first;
        while (left > 0) {
            const size_t half = (left + 1) / 2;
            base += base[half - 1] <= key ? half : 0;
            left -= half;
        }
        after = static_cast<unsigned>(base - rows);
    }

    // The number of gap bytes before row `row`.
    unsigned pad(unsigned row) const {
        const unsigned slot = rows[row] & kEscape;
        return slot == kEscape ? 0 : static_cast<unsigned>(rows[count + slot] >> kEntryBits);
    }
    static unsigned in_block(uint16_t row) { return row >> kSlotBits; }
    // Whether the offset lies in the gap that row `after` includes.
    bool in_joined_gap() const { return after < last && in_block(rows[after]) - within <= pad(after); }

    const uint16_t *rows; // the dictionary follows the rows
    unsigned count;
    unsigned block;
    unsigned within;
    unsigned last;  // the block's last row, exclusive
    unsigned after; // the first row behind the offset; never 0, because a page begins with a row
};

} // namespace

uint32_t Table::find(uint32_t offset) const {
    const uint32_t page = pages_[offset >> kPageBits];
    if ((page & kUniformPage) != 0)
        return page & ~kUniformPage;
    const PagePosition place(units_.data() + page, offset);
    if (place.in_joined_gap())
        return kGap;
    const unsigned row = place.after - 1;
    const unsigned slot = place.rows[row] & kEscape;
    if (slot == kEscape) [[unlikely]]
        return overflow_entry(page + static_cast<uint32_t>(kBlocks) + row);
    return place.rows[place.count + slot] & ((1u << kEntryBits) - 1);
}

uint32_t Table::overflow_entry(uint32_t unit) const {
    const auto found = std::lower_bound(overflow_.begin(), overflow_.end(), unit,
                                        [](const Overflow &row, uint32_t value) { return row.unit < value; });
    return found->entry;
}

Table::Row Table::row_at(LinkAddr address) const {
    const uint64_t offset = address - base_;
    const uint64_t page_number = offset >> kPageBits;
    if (page_number >= pages_.size())
        return {{}, LinkAddr(~uint64_t{0})};
    Row row{lookup(address), LinkAddr()};
    const LinkAddr page_start = base_ + (page_number << kPageBits);
    row.end = page_start + (uint64_t{1} << kPageBits);
    const uint32_t page = pages_[page_number];
    if ((page & kUniformPage) != 0)
        return row;
    const uint16_t *units = units_.data() + page;
    const PagePosition place(units, static_cast<uint32_t>(offset));
    if (place.after == place.count)
        return row;
    unsigned block = place.block;
    while (block + 1 < kBlocks && units[block + 1] <= place.after)
        ++block;
    const uint64_t next = uint64_t{block} << kBlockBits | PagePosition::in_block(place.rows[place.after]);
    row.end = page_start + (place.in_joined_gap() ? next : next - place.pad(place.after));
    return row;
}

size_t Table::memory_bytes() const {
    return pages_.capacity() * sizeof(pages_[0]) + units_.capacity() * sizeof(units_[0]) +
           rules_.capacity() * sizeof(Rule) + overflow_.capacity() * sizeof(Overflow);
}

} // namespace dwunw::unwind
