// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// readelf prints every FDE; dwunw has one rule for each address. This file computes, from readelf's list and by the
// same rules, which FDE covers which address, so that nothing is left out of the comparison:
//
//   tombstones    an FDE that begins at 0, or is empty, belongs to discarded code
//   repetition    of several with one start in one section, the first counts
//   overlap       one that begins inside another takes over from its start on; past its end nothing is certain
//   preference    one of .debug_frame that overlaps any of .eh_frame is left out
//   refusals      an FDE that dwunw refuses has no rows; libdw must refuse it, too
//
// Then number, bounds and rules of the rows must be equal. If they are not, libdw judges address by address: either it
// agrees with dwunw (then readelf is wrong), or the difference stands.
// tests/integration/table_compare_sees_a_wrong_row_test proves that a wrong row is found.
#include "compare.h"

#include "dwunw_table.h"
#include "judge.h"
#include "readelf_dump.h"

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <optional>

namespace table_readelf {
namespace {

[[gnu::format(printf, 1, 2)]] std::string text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char buffer[512];
    std::vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

class Comparer {
  public:
    Comparer(const Tools &tools, const std::string &path)
        : tools_(tools), path_(path), readelf_(read_readelf(tools.readelf, path, rules_)),
          dwunw_(read_dwunw(tools.dwunw, path, rules_)) {}

    Comparison run() {
        result_.messages = readelf_.messages;
        if (readelf_.status != 0)
            result_.messages.push_back(text("exit status %d", readelf_.status));
        result_.fdes = readelf_.fdes.size();
        result_.fdes_eh = static_cast<uint64_t>(
            std::ranges::count_if(readelf_.fdes, [](const ReadelfFde &fde) { return fde.section == 0; }));
        if (readelf_.fdes.empty() && dwunw_.rows.empty() && dwunw_.refusals.empty()) {
            result_.no_cfi = true;
            // Without the place, which would make each a reason of its own.
            std::string said = "nothing";
            if (!readelf_.messages.empty())
                said = readelf_.messages.front().substr(readelf_.messages.front().find(": ") + 2);
            result_.no_cfi_reason =
                "readelf: " + said + "; dwunw: " + (dwunw_.error.empty() ? "a table without rows" : dwunw_.error);
            result_.messages.clear();
            return result_;
        }
        if (!dwunw_.error.empty()) {
            result_.different.push_back("dwunw: " + dwunw_.error);
            return result_;
        }
        select_fdes();
        expect_rows();
        check_refusals();
        if (result_.tombstones != dwunw_.tombstones)
            differ(
                text("%" PRIu64 " tombstones by readelf, %" PRIu64 " by dwunw", result_.tombstones, dwunw_.tombstones));
        compare_rows();
        if (tools_.judge_all)
            judge_rows();
        return result_;
    }

  private:
    void differ(std::string line) { result_.different.push_back(std::move(line)); }

    Judge &judge() {
        if (!judge_)
            judge_.emplace(path_);
        return *judge_;
    }

    // Fills chosen_ in ascending order.
    void select_fdes() {
        std::vector<const ReadelfFde *> listed;
        for (const ReadelfFde &fde : readelf_.fdes) {
            if (fde.start == 0 || fde.start == fde.end)
                ++result_.tombstones;
            else
                listed.push_back(&fde);
        }
        const auto by_start = [](const ReadelfFde *a, const ReadelfFde *b) { return a->start < b->start; };
        std::ranges::stable_sort(listed, by_start);
        for (const ReadelfFde *fde : listed)
            if (fde->section == 0)
                choose(fde);
        const std::vector<const ReadelfFde *> preferred = chosen_;
        chosen_.clear();
        // How far the preferred ones up to here reach.
        uint64_t reach = 0;
        size_t next = 0;
        for (const ReadelfFde *fde : listed) {
            if (fde->section == 0)
                continue;
            for (; next < preferred.size() && preferred[next]->start < fde->end; ++next)
                reach = std::max(reach, preferred[next]->end);
            if (reach > fde->start)
                ++result_.covered;
            else
                choose(fde);
        }
        const auto middle = static_cast<ptrdiff_t>(chosen_.size());
        chosen_.insert(chosen_.end(), preferred.begin(), preferred.end());
        std::inplace_merge(chosen_.begin(), chosen_.begin() + middle, chosen_.end(), by_start);
    }

    void choose(const ReadelfFde *fde) {
        if (!chosen_.empty() && chosen_.back()->start == fde->start)
            ++result_.repeated;
        else
            chosen_.push_back(fde);
    }

    // Marks and returns the refusal of this FDE.
    const DwunwTable::Refusal *refusal_of(const ReadelfFde &fde) {
        const auto [first, last] = refused_at_.equal_range(fde.offset);
        for (auto at = first; at != last; ++at) {
            const DwunwTable::Refusal &refusal = dwunw_.refusals[at->second];
            if (refusal.start != 0 && refusal.start != fde.start)
                continue;
            refusal_known_[at->second] = true;
            return &refusal;
        }
        return nullptr;
    }

    void expect_rows() {
        refusal_known_.resize(dwunw_.refusals.size());
        for (size_t i = 0; i < dwunw_.refusals.size(); ++i)
            refused_at_.emplace(dwunw_.refusals[i].offset, i);
        for (size_t i = 0; i < chosen_.size(); ++i) {
            const ReadelfFde &fde = *chosen_[i];
            uint64_t end = fde.end;
            if (i + 1 < chosen_.size() && chosen_[i + 1]->start < end) {
                end = chosen_[i + 1]->start;
                ++result_.overlapping;
            }
            if (const DwunwTable::Refusal *refusal = refusal_of(fde))
                judge_refusal(fde, end, *refusal);
            else
                expect_fde(fde, end);
        }
        result_.rows = expected_.size();
    }

    void expect_fde(const ReadelfFde &fde, uint64_t fde_end) {
        const size_t first = expected_.size();
        for (size_t i = 0; i < fde.changes.size(); ++i) {
            const auto &change = fde.changes[i];
            const bool last = i + 1 == fde.changes.size();
            const uint64_t end = last ? fde_end : std::min(fde.changes[i + 1].start, fde_end);
            if (change.start >= end)
                continue;
            if (expected_.size() > first && expected_.back().rule == change.rule &&
                expected_.back().end == change.start)
                expected_.back().end = end;
            else
                expected_.push_back({change.start, end, change.rule});
        }
    }

    void judge_refusal(const ReadelfFde &fde, uint64_t end, const DwunwTable::Refusal &refusal) {
        std::string line = text("refused FDE at %" PRIx64 " of %s, %" PRIx64 "..%" PRIx64 ": %s; ", fde.offset,
                                fde.section ? ".debug_frame" : ".eh_frame", fde.start, fde.end, refusal.reason.c_str());
        for (uint64_t address = fde.start; address < end;) {
            const Judge::Opinion opinion = judge().libdw(address);
            if (opinion.rule.empty()) {
                line += text("libdw from %" PRIx64 " on: ", address) + opinion.error;
                result_.refused.push_back(line);
                return;
            }
            address = opinion.end;
        }
        differ(line + "libdw reads it");
    }

    // What dwunw refused besides: CIEs, and entries readelf does not print as FDEs.
    void check_refusals() {
        for (size_t i = 0; i < dwunw_.refusals.size(); ++i) {
            const DwunwTable::Refusal &refusal = dwunw_.refusals[i];
            if (!refusal_known_[i])
                result_.refused.push_back(
                    text("refused entry at %" PRIx64 " of its section: %s", refusal.offset, refusal.reason.c_str()));
        }
        if (dwunw_.fdes + result_.refused.size() + result_.different.size() < chosen_.size())
            differ(text("%zu FDEs by readelf, %" PRIu64 " by dwunw", chosen_.size(), dwunw_.fdes));
    }

    static const Row *row_at(const std::vector<Row> &rows, uint64_t address) {
        auto after = std::ranges::upper_bound(rows, address, {}, &Row::start);
        if (after == rows.begin() || std::prev(after)->end <= address)
            return nullptr;
        return &*std::prev(after);
    }

    std::string rule_text(const Row *row) const { return row ? rules_.text(row->rule) : "nothing"; }

    void compare_rows() {
        const std::vector<Row> &found = dwunw_.rows;
        if (found == expected_)
            return;
        for (size_t i = 1; i < found.size(); ++i)
            if (found[i].start < found[i - 1].end)
                return differ(text("dwunw's rows overlap at %" PRIx64, found[i].start));

        std::vector<Row> differing;
        std::ranges::set_symmetric_difference(expected_, found, std::back_inserter(differing));
        std::vector<uint64_t> bounds;
        for (const Row &row : differing) {
            bounds.push_back(row.start);
            bounds.push_back(row.end);
        }
        std::ranges::sort(bounds);
        bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());
        const size_t before = result_.different.size() + result_.readelf_wrong.size();
        for (size_t i = 0; i + 1 < bounds.size(); ++i)
            compare_span(bounds[i], bounds[i + 1]);
        if (result_.different.size() + result_.readelf_wrong.size() == before)
            differ(text("one FDE's rows by readelf are another's by dwunw, at %" PRIx64, bounds.front()));
    }

    // Addresses in which neither side's rule changes.
    void compare_span(uint64_t start, uint64_t end) {
        const Row *by_readelf = row_at(expected_, start);
        const Row *by_dwunw = row_at(dwunw_.rows, start);
        const std::string theirs = rule_text(by_readelf);
        const std::string ours = rule_text(by_dwunw);
        if (theirs == ours)
            return;
        std::string line =
            text("%" PRIx64 "..%" PRIx64 ": readelf: %s; dwunw: %s; ", start, end, theirs.c_str(), ours.c_str());
        std::string by;
        for (uint64_t address = start; address < end;) {
            const Judge::Opinion opinion = judge().at(address);
            if (opinion.rule != ours)
                return differ(line + opinion.text());
            by = opinion.by;
            address = opinion.end;
        }
        result_.readelf_wrong.push_back(line + by + ": " + ours);
    }

    void judge_rows() {
        for (const Row &row : dwunw_.rows) {
            const std::string &rule = rules_.text(row.rule);
            for (uint64_t address = row.start; address < row.end;) {
                const Judge::Opinion opinion = judge().at(address);
                if (opinion.rule != rule)
                    return differ(text("%" PRIx64 ": dwunw: %s; ", address, rule.c_str()) + opinion.text());
                address = opinion.end;
            }
            ++result_.judged;
        }
    }

    const Tools &tools_;
    const std::string &path_;
    Rules rules_;
    ReadelfDump readelf_;
    DwunwTable dwunw_;
    std::vector<const ReadelfFde *> chosen_;
    std::vector<Row> expected_;
    std::multimap<uint64_t, size_t> refused_at_; // by section offset
    std::vector<bool> refusal_known_;            // belongs to an FDE of chosen_
    std::optional<Judge> judge_;
    Comparison result_;
};

} // namespace

Comparison compare(const Tools &tools, const std::string &path) { return Comparer(tools, path).run(); }

} // namespace table_readelf
