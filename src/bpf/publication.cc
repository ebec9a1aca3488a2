// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One publication: a process's map is read and written into the BPF maps.
//
//     /proc/PID/maps ─► Entries: a mapping each, with the module's table ─► dwunw_mappings ─► the process's slot
//
// The kernel may walk while this writes. So new mappings go to another block, the slot is written under its sequence
// lock, and what was replaced is released after a grace period (BlockAllocator, TablePool). A step that finds nothing
// changed leaves what is published, so that the kernel's cache of rules stays valid.
//
// Proved by tests/unit/bpf_publisher_test and, in the kernel, by tests/integration/bpf_walk_test.py: a storm of dlopen
// and dlclose, exec after exec, fork.
#include "bpf/publisher.h"

#include "base/clock.h"
#include "bpf/start_addresses.h"

#include <algorithm>
#include <utility>

namespace dwunw::bpf {
namespace {

using process::Process;
using unwind::CodeKind;

bool same(const dwunw_mapping &a, const dwunw_mapping &b) {
    return a.start == b.start && a.end == b.end && a.origin == b.origin && a.table == b.table && a.kind == b.kind;
}

// Whether every mapping in `before` is also in `after`, which may have more.
bool keeps(std::span<const dwunw_mapping> before, std::span<const dwunw_mapping> after) {
    size_t at = 0;
    for (const dwunw_mapping &mapping : before) {
        while (at < after.size() && after[at].start < mapping.start)
            ++at;
        if (at == after.size() || !same(after[at], mapping))
            return false;
    }
    return true;
}

// The same for modules only: the meaning of code without a file is never kept.
bool keeps_modules(std::span<const dwunw_mapping> before, std::span<const dwunw_mapping> after) {
    std::vector<dwunw_mapping> modules(before.begin(), before.end());
    std::erase_if(modules, [](const dwunw_mapping &mapping) { return mapping.kind == DWUNW_BPF_ANONYMOUS; });
    return keeps(modules, after);
}

uint64_t code_filter(std::span<const dwunw_mapping> mappings) {
    constexpr unsigned kGranule = 21;
    uint64_t filter = 0;
    for (const dwunw_mapping &mapping : mappings) {
        if ((mapping.end >> kGranule) - (mapping.start >> kGranule) > 64)
            return ~uint64_t{0};
        for (uint64_t i = mapping.start >> kGranule; i <= mapping.end >> kGranule; ++i)
            filter |= uint64_t{1} << DWUNW_BPF_FILTER_BIT(i << kGranule);
    }
    return filter;
}

} // namespace

void Publisher::write(TrackedProcess &tracked, const PublishedMap &published, uint64_t filter) {
    dwunw_process_slot &slot = maps_.processes()[tracked.slot];
    const uint32_t lock = slot.lock;
    put(slot.lock, lock + 1);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    slot.seen_changes = published.changes;
    slot.exec_pages = published.exec_pages;
    slot.layout = tracked.layout != nullptr ? tracked.layout->number() : 0;
    slot.code_filter = filter;
    slot.first = tracked.first;
    slot.count = tracked.count;
    slot.generation = tracked.count != 0 || tracked.incomplete ? tracked.generation : 0;
    slot.incomplete = tracked.incomplete;
    slot.seen_execs = tracked.execs;
    slot.lasting_layout = tracked.lasting_layout != nullptr ? tracked.lasting_layout->number() : 0;
    slot.lasting_first = tracked.lasting_first;
    slot.lasting_count = static_cast<uint32_t>(tracked.lasting.size());
    slot.lasting_generation = tracked.lasting_generation;
    slot.need_sent = 0;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    put(slot.lock, lock + 2);
}

struct Publisher::Entries {
    std::vector<dwunw_mapping> mappings;
    std::vector<size_t> of_code; // for each entry, its index in the code mappings
    std::vector<const process::Module *> tables;
};

Publisher::Entries Publisher::entries_of(const Process::CodeMappings &code) {
    Entries entries;
    for (size_t i = 0; i < code.mappings.size(); ++i) {
        const auto &mapping = code.mappings[i];
        dwunw_mapping out = {
            .start = mapping.start.value, .end = mapping.end.value, .origin = 0, .table = 0, .kind = 0};
        switch (mapping.binding.kind) {
        case CodeKind::kUprobeTrampoline:
            continue; // the kernel recognises it by its address
        case CodeKind::kAnonymous:
            out.kind = DWUNW_BPF_ANONYMOUS;
            break;
        case CodeKind::kModule:
            out.kind = DWUNW_BPF_NO_TABLE;
            // A file that cannot be read any more has no table.
            if (const auto compiled = mapping.cfi != nullptr ? mapping.cfi->compile() : Error{DWUNW_ERR_NO_CFI}) {
                out.kind = DWUNW_BPF_NO_ROOM;
                const process::Module &file = *mapping.binding.module->file;
                if (const auto table = pool_.acquire(file, **compiled)) {
                    entries.tables.push_back(&file);
                    out.kind = DWUNW_MAPPING_MODULE;
                    out.table = *table;
                    out.origin = mapping.binding.bias.run((*compiled)->base()).value;
                }
            }
            break;
        default:
            out.kind = DWUNW_BPF_NO_TABLE;
            break;
        }
        entries.mappings.push_back(out);
        entries.of_code.push_back(i);
    }
    return entries;
}

std::optional<Publisher::Block> Publisher::store(std::span<const dwunw_mapping> mappings) {
    if (mappings.empty())
        return Block{};
    const auto count = static_cast<uint32_t>(mappings.size());
    const auto first = mappings.size() <= DWUNW_BPF_MAX_MAPPINGS ? mapping_blocks_.take(count) : std::nullopt;
    if (!first)
        return std::nullopt;
    std::ranges::copy(mappings, maps_.mappings().begin() + *first);
    return Block{*first, count};
}

// Stores the whole map. Without room for that, only the modules that have a table; without room for those, nothing.
Publisher::Block Publisher::store_map(TrackedProcess &tracked, const Entries &entries) {
    tracked.incomplete = false;
    if (const auto all = store(entries.mappings))
        return *all;
    tracked.incomplete = true;
    std::vector<dwunw_mapping> modules(entries.mappings);
    std::erase_if(modules, [](const dwunw_mapping &mapping) { return mapping.kind != DWUNW_MAPPING_MODULE; });
    return store(modules).value_or(Block{});
}

bool Publisher::extend(std::shared_ptr<Layout> &layout, std::span<const Process::CodeMapping> mappings) {
    if (layout != nullptr && layout->extend(mappings))
        return true;
    retire(std::move(layout));
    layout = std::make_shared<Layout>(++layouts_);
    layout->extend(mappings);
    std::erase_if(layout_numbers_, [](const auto &entry) { return entry.second.expired(); });
    layout_numbers_.emplace(layout->number(), layout);
    return false;
}

const elf::Dynamic &Publisher::dynamic(const dwunw_module &module) {
    const process::Module *file = module.file;
    auto found = dynamics_.find(file);
    if (found == dynamics_.end()) {
        elf::Dynamic names;
        if (file != nullptr && file->image())
            names = elf::read_dynamic(*file->image(), file->source());
        found = dynamics_.emplace(file, std::move(names)).first;
    }
    return found->second;
}

// Sets `before` to the block to give back after the new one was written.
void Publisher::publish_lasting(TrackedProcess &tracked, const Process::CodeMappings &code, const Entries &entries,
                                uint64_t execs, Block &before) {
    const bool same_program = tracked.lasting_generation != 0 && tracked.execs == execs;
    if (same_program && tracked.lasting_whole && keeps(tracked.lasting, entries.mappings))
        return;
    const StartAddresses at = start_addresses(tracked.pid);
    const Lasting lasting =
        find_lasting(code.mappings, RunAddr(at.entry), RunAddr(at.linker),
                     [&](const dwunw_module &module) -> const elf::Dynamic & { return dynamic(module); });
    std::vector<dwunw_mapping> mappings;
    std::vector<Process::CodeMapping> named;
    for (const size_t number : lasting.mappings) {
        const auto entry = std::ranges::lower_bound(entries.of_code, number);
        if (entry == entries.of_code.end() || *entry != number)
            continue;
        mappings.push_back(entries.mappings[static_cast<size_t>(entry - entries.of_code.begin())]);
        named.push_back(code.mappings[number]);
    }
    tracked.lasting_whole = lasting.whole;
    if (same_program && mappings.size() == tracked.lasting.size() && keeps(tracked.lasting, mappings))
        return;
    const auto block = mappings.empty() ? std::nullopt : store(mappings);
    const bool kept = block && same_program && keeps(tracked.lasting, mappings);
    before = {tracked.lasting_first, static_cast<uint32_t>(tracked.lasting.size())};
    tracked.execs = execs;
    if (!block) {
        tracked.lasting.clear();
        tracked.lasting_first = tracked.lasting_generation = 0;
        return;
    }
    extend(tracked.lasting_layout, named);
    if (!kept)
        tracked.lasting_generation = generation_++;
    tracked.lasting_first = block->first;
    tracked.lasting = std::move(mappings);
}

// What one reading of a process's map gave.
struct Publisher::Reading {
    PublishedMap map;    // which moments it is valid for
    MapReading snapshot; // when it was read
    Process::CodeMappings code;
};

dwunw_status Publisher::read_map(TrackedProcess &tracked, Reading &reading) {
    const dwunw_process_slot &slot = maps_.processes()[tracked.slot];
    Process &process = *tracked.process->impl;
    reading.snapshot.execs = load(slot.execs);
    reading.map.changes = changes(tracked);
    reading.snapshot.begin = now_ns();
    if (auto status = process.refresh(); !status)
        return status.status();
    reading.snapshot.end = now_ns();
    reading.map.changes_after = changes(tracked);
    reading.snapshot.snapshot = process.snapshot();
    reading.code = process.code_mappings();
    reading.map.map_generation = reading.code.generation;
    return DWUNW_OK;
}

dwunw_status Publisher::read_watched_map(TrackedProcess &tracked, Reading &reading) {
    if (const dwunw_status status = read_map(tracked, reading); status != DWUNW_OK)
        return status;
    const bool has_linker = std::ranges::any_of(
        reading.code.mappings, [&](const auto &mapping) { return mapping.binding.module == tracked.linker; });
    if (tracked.linker == nullptr || has_linker)
        return DWUNW_OK;
    // Another program, with another linker. Events before the new linker was watched are unknown, so read the map once
    // more.
    tracked.linker = nullptr;
    tracked.linker_probe.reset();
    watch_linker(tracked);
    return read_map(tracked, reading);
}

void Publisher::count_pages(TrackedProcess &tracked, Reading &reading, bool same_map) {
    // The map is unchanged, but the kernel has asked because of its count of pages: it counts pages that the map does
    // not show, or the reverse.
    if (same_map && tracked.published.changes == reading.map.changes && tracked.asked_pages != 0)
        tracked.unexplained_pages = tracked.asked_pages - reading.code.exec_pages;
    tracked.asked_pages = 0;
    reading.map.exec_pages = reading.code.exec_pages + tracked.unexplained_pages;
}

void Publisher::release(const Replaced &replaced) {
    for (const Block &block : {replaced.mappings, replaced.lasting})
        mapping_blocks_.give_back(block.first, block.count);
    for (const process::Module *file : replaced.tables)
        pool_.release(*file);
}

dwunw_status Publisher::publish(TrackedProcess &tracked) {
    if (!generations_for_one_more())
        return DWUNW_ERR_BPF;
    tracked.wanted = false;
    Reading reading;
    if (const dwunw_status status = read_watched_map(tracked, reading); status != DWUNW_OK)
        return status;
    if (reading.code.generation == reading.snapshot.snapshot->generation &&
        load(maps_.processes()[tracked.slot].execs) == reading.snapshot.execs)
        note_reading(tracked, reading.snapshot);

    Entries entries = entries_of(reading.code);
    const bool keeps_all = keeps(tracked.mappings, entries.mappings);
    const bool same_map = tracked.mappings.size() == entries.mappings.size() && keeps_all;
    count_pages(tracked, reading, same_map);
    Replaced replaced;
    if (tracked.generation == 0 || !same_map) {
        replaced.mappings = {tracked.first, tracked.count};
        const Block now = store_map(tracked, entries);
        tracked.first = now.first;
        tracked.count = now.count;
    }
    reading.map.follow(tracked.generation != 0 ? &tracked.published : nullptr,
                       keeps_modules(tracked.mappings, entries.mappings));
    if (!extend(tracked.layout, reading.code.mappings))
        reading.map.begin();
    if (tracked.generation == 0 || !keeps_all)
        tracked.generation = generation_++;
    publish_lasting(tracked, reading.code, entries, reading.snapshot.execs, replaced.lasting);
    write(tracked, reading.map, code_filter(entries.mappings));
    tracked.mappings = std::move(entries.mappings);
    replaced.tables = std::exchange(tracked.tables, std::move(entries.tables));
    tracked.published = reading.map;
    release(replaced);
    ++publications_;
    return DWUNW_OK;
}

} // namespace dwunw::bpf
