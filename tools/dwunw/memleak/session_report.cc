// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A session's reports: collects the blocks, has them ranked, prints them, drops what is gone.
#include "memleak/session.h"

#include "output.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <unordered_map>

namespace dwunw_tool::memleak {

void Session::collect(Rows &rows) {
    std::unordered_map<int64_t, Amount> amounts; // by stack id
    const uint64_t now = now_ns();
    const uint64_t latest = now - std::min(now, options_.older_ms * 1'000'000);
    const auto visit = [&](const Block &block) {
        if (block.born > latest)
            return;
        is_sampled_ |= block.shift > 0;
        const double probability = sampling_.probability(block.size) / static_cast<double>(UINT64_C(1) << block.shift);
        amounts[block.stack].add(block, probability, options_.show_blocks);
    };
    const auto is_gone = [&](uint32_t number) {
        const auto found = processes_.find(number);
        return found != processes_.end() && found->second.replaced;
    };
    take_events();
    kernel_->blocks().read(visit, is_gone, [this] { take_events(); });
    // A block's stack was sent before the block was stored, so its record has come.
    take_stacks(kSecond);
    for (const auto &[id, amount] : amounts)
        rows.of(id, Memory::kHeap).amount.add(amount);
    mappings_.each([&](uint32_t number, const Mapping &mapping) {
        const uint64_t size = mapping.end - mapping.start;
        if (mapping.born > latest || size < options_.min_size || size > options_.max_size)
            return;
        rows.of(mapping.stack, mapping.is_thread_stack ? Memory::kThreadStack : Memory::kMapping)
            .amount.add({mapping.start, number, size, 0, 0, mapping.stack, mapping.born}, 1, options_.show_blocks);
    });
    ids_ = rows.ids();
    for (const auto &[mismatch, count] : mismatches_)
        for (const int64_t id : {std::get<0>(mismatch), std::get<3>(mismatch)})
            if (id > 0)
                ids_.push_back(static_cast<uint64_t>(id));
}

// A mapping that an allocator made for itself, outside of the calls that are probed.
void Session::mark_allocators(Rows &rows) {
    for (Row &row : rows.rows()) {
        if (row.memory != Memory::kMapping)
            continue;
        const std::vector<dwunw_frame> frames = rows.frames(row);
        if (!frames.empty() && frames[0].module != nullptr &&
            probes_->is_only_allocator(dwunw_module_path(frames[0].module)))
            row.memory = Memory::kAllocator;
    }
}

void Session::print_mismatches(const Report &report, const Rows &rows) const {
    for (const auto &[mismatch, count] : mismatches_) {
        const auto &[allocated, kind, how, freed] = mismatch;
        report.mismatch(rows, count, kind, how, allocated, freed);
    }
}

std::vector<Loss> Session::losses_so_far() const {
    dwunw_bpf_counters stacks{};
    stacks.size = sizeof stacks;
    dwunw_bpf_get_counters(kernel_->stacks(), &stacks);
    return losses(stacks, kernel_->counters(), kernel_->blocks().unreadable(), probes_->problems().size());
}

void Session::print_end(const Totals &totals) {
    outstanding_bytes_ = totals.bytes;
    print("memleak: %" PRIu64 " bytes in %" PRIu64 " allocations from %zu stacks", totals.bytes, totals.count,
          totals.stacks);
    if (totals.mapped > 0)
        print(", of these %" PRIu64 " bytes mapped", totals.mapped);
    if (is_sampled_ && totals.bytes > 0)
        print("; estimated, +-%.1f %%", 100 * std::sqrt(totals.variance) / static_cast<double>(totals.bytes));
    print("\n");
    if (totals.thread_stacks > 0)
        print("memleak: thread stacks: %" PRIu64 " bytes\n", totals.thread_stacks);
    if (totals.allocators_own > 0)
        print("memleak: mapped by allocators for themselves: %" PRIu64 " bytes\n", totals.allocators_own);
    if (totals.suppressed_count > 0)
        print("memleak: suppressed: %" PRIu64 " bytes in %" PRIu64 " allocations\n", totals.suppressed_bytes,
              totals.suppressed_count);
    const auto counters = kernel_->counters();
    if (counters[MEMLEAK_OLD_FREES] > 0) {
        print("memleak: freed from before the start: %" PRIu64 " blocks", counters[MEMLEAK_OLD_FREES]);
        if (counters[MEMLEAK_OLD_FREES_SIZED] > 0)
            print(", %" PRIu64 " bytes%s", counters[MEMLEAK_OLD_FREED_BYTES],
                  counters[MEMLEAK_OLD_FREES_SIZED] < counters[MEMLEAK_OLD_FREES] ? " in those that have a header"
                                                                                  : "");
        print("\n");
    }
    if (counters[MEMLEAK_MISMATCHES] > 0)
        print("memleak: blocks freed by the wrong function: %" PRIu64 "\n", counters[MEMLEAK_MISMATCHES]);
    for (const Loss &loss : losses_so_far()) {
        lost_something_ = true;
        print("memleak: lost: %s: %" PRIu64 "%s%s\n", loss.what.c_str(), loss.count, loss.advice.empty() ? "" : "; ",
              loss.advice.c_str());
    }
}

// Processes that have ended are in one report; then their blocks go, and their numbers come back.
void Session::drop_ended() {
    std::vector<uint32_t> gone;
    for (auto &[number, process] : processes_) {
        if (process.replaced)
            gone.push_back(number);
        if (process.ended) {
            mappings_.drop(number);
            probes_->forget(process.pid);
            added_.erase(process.pid);
            process.replaced = true; // the next report drops its blocks
        }
    }
    for (const uint32_t number : gone) {
        processes_.erase(number);
        kernel_->return_number(number);
    }
}

void Session::report() {
    Rows rows(kernel_->stacks());
    const uint64_t now = now_ns();
    collect(rows);
    mark_allocators(rows);
    Totals totals;
    const std::vector<Ranked> ranked = ranking_->rank(rows, now, is_sampled_, totals);
    const Report report(symbolizer_.get());
    report.header(ranked.size());
    for (const Ranked &entry : ranked)
        if (!output_is_lost())
            report.row(rows, *entry.row, entry.mark);
    print_mismatches(report, rows);
    print_end(totals);
    if (!options_.save.empty())
        if (const std::string problem = Baseline::write(options_.save, rows); !problem.empty())
            std::fprintf(stderr, "dwunw: %s\n", printable(problem).c_str());
    flush_output();
    drop_ended();
    dwunw_bpf_retain(kernel_->stacks(), ids_.data(), ids_.size());
}

} // namespace dwunw_tool::memleak
