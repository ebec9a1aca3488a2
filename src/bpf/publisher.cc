// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/integration/bpf_walk_test.py: a storm of dlopen and dlclose, exec after exec, fork.
#include "bpf/publisher.h"

#include <dwunw/probe_placement.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <elf.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

namespace dwunw::bpf {
namespace {

using process::Process;
using unwind::CodeKind;

uint64_t now_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

template <typename T> T load(const T &shared) { return __atomic_load_n(&shared, __ATOMIC_ACQUIRE); }
template <typename T> void store(T &shared, T value) { __atomic_store_n(&shared, value, __ATOMIC_RELEASE); }

// Where the dynamic linker was mapped; the program itself where it was given none.
uint64_t linker_address(int32_t pid) {
    std::array<char, 32> path{};
    std::snprintf(path.data(), path.size(), "/proc/%d/auxv", pid);
    const UniqueFd fd(::open(path.data(), O_RDONLY | O_CLOEXEC));
    std::array<Elf64_auxv_t, 64> entries{};
    if (!fd.valid())
        return 0;
    const ssize_t got = ::read(fd.get(), entries.data(), sizeof(entries));
    uint64_t base = 0;
    uint64_t entry = 0;
    for (size_t i = 0; got > 0 && i < static_cast<size_t>(got) / sizeof(entries[0]); ++i) {
        if (entries[i].a_type == AT_BASE)
            base = entries[i].a_un.a_val;
        else if (entries[i].a_type == AT_ENTRY)
            entry = entries[i].a_un.a_val;
    }
    return base != 0 ? base : entry;
}

bool same(const dwunw_mapping &a, const dwunw_mapping &b) {
    return a.start == b.start && a.end == b.end && a.origin == b.origin && a.table == b.table && a.kind == b.kind;
}

// Whether everything that was published still is, whatever came to it.
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

// The same of modules alone: code without a file has no meaning to keep.
bool keeps_modules(std::span<const dwunw_mapping> before, std::span<const dwunw_mapping> after) {
    return std::ranges::all_of(before, [&](const dwunw_mapping &mapping) {
        return mapping.kind == DWUNW_BPF_ANONYMOUS || keeps({&mapping, 1}, after);
    });
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

// At _dl_debug_state; nullptr: it has none, or the kernel refused.
dwunw_attachment *attach_linker_probe(const LinkerProbe &probe, const dwunw_module &linker, int32_t pid,
                                      const char *path) {
    dwunw_probe_file *file = nullptr;
    if (dwunw_probe_file_open_module(&linker, &file) != DWUNW_OK)
        return nullptr;
    dwunw_probe_placement placement{};
    placement.size = sizeof(placement);
    const dwunw_status found = dwunw_probe_place_symbol(file, "_dl_debug_state", nullptr, &placement);
    dwunw_probe_file_close(file);
    if (found != DWUNW_OK)
        return nullptr;
    const dwunw_attach_point point = {
        .file_offset = placement.file_offset, .cookie = 0, .when = DWUNW_ATTACH_AT_ENTRY, .reserved = 0};
    const dwunw_attach_request request = {
        .size = sizeof(request), .pid = pid, .path = path, .points = &point, .count = 1};
    dwunw_attachment *attachment = nullptr;
    return dwunw_attach(&probe.programs, &probe.plan, &request, &attachment) == DWUNW_OK ? attachment : nullptr;
}

} // namespace

Publisher::Publisher(dwunw_context *context, KernelMaps &maps, std::optional<LinkerProbe> linker_probe,
                     uint32_t first_generation)
    : context_(context), maps_(maps), linker_probe_(linker_probe),
      pool_(maps.pool(), [&] { return maps.grace.wait(); }),
      mapping_blocks_(static_cast<uint32_t>(maps.mappings().size()), [&] { return maps.grace.wait(); }),
      slots_(static_cast<uint32_t>(maps.processes().size()), [&] { return maps.grace.wait(); }),
      generation_(first_generation) {}

Publisher::Known *Publisher::find(int32_t pid) {
    const auto found = known_.find(pid);
    return found == known_.end() ? nullptr : found->second.get();
}

std::shared_ptr<const Layout> Publisher::layout(uint64_t number) const {
    const auto found = layout_numbers_.find(number);
    return found == layout_numbers_.end() ? nullptr : found->second.lock();
}

uint64_t Publisher::changes(const Known &known) const { return load(maps_.processes()[known.slot].changes); }

size_t Publisher::watched_linkers() const {
    return static_cast<size_t>(
        std::ranges::count_if(known_, [](const auto &entry) { return entry.second->linker_probe != nullptr; }));
}

dwunw_status Publisher::add(int32_t pid) {
    if (Known *known = find(pid)) {
        if (load(maps_.processes()[known->slot].tgid) != 0)
            return publish(*known);
        exited(pid); // the number is another process's by now
    }
    const dwunw_process_options options = {.size = sizeof(options),
                                           .pid = pid,
                                           .maps = nullptr,
                                           .exe = nullptr,
                                           .sysroot = nullptr,
                                           .maps_error_line = nullptr};
    dwunw_process *process = nullptr;
    if (const dwunw_status status = dwunw_process_open(context_, &options, &process); status != DWUNW_OK)
        return status;
    auto known = std::make_unique<Known>();
    known->pid = pid;
    known->process.reset(process);
    const auto slot = slots_.take(1);
    if (!slot)
        return DWUNW_ERR_LIMIT;
    known->slot = *slot;
    // The kernel counts changes from here on, and asks for nothing while the first map is being read.
    dwunw_process_slot &shared = maps_.processes()[*slot];
    shared = {};
    shared.need_sent = 1;
    shared.tgid = static_cast<uint32_t>(pid);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (bpf_map_update_elem(maps_.slots_fd, &pid, &*slot, BPF_ANY) != 0) {
        slots_.give_back(*slot, 1);
        return DWUNW_ERR_BPF;
    }
    Known &added = *(known_[pid] = std::move(known));
    watch_linker(added);
    const dwunw_status status = publish(added);
    if (status != DWUNW_OK)
        remove(pid);
    return status;
}

void Publisher::watch_linker(Known &known) {
    if (!linker_probe_)
        return;
    const uint64_t address = linker_address(known.pid);
    const auto code = process::of_handle(*known.process).code_mappings();
    for (const auto &mapping : code.mappings) {
        // AT_BASE is the file's first byte, which lies in a mapping before its code.
        const bool is_it = address != 0 && mapping.binding.kind == CodeKind::kModule &&
                           mapping.end > RunAddr(address) &&
                           (mapping.start <= RunAddr(address) || mapping.start.value - address < (uint64_t{1} << 20));
        if (!is_it)
            continue;
        known.linker = mapping.binding.module;
        std::array<char, 96> path{};
        std::snprintf(path.data(), path.size(), "/proc/%d/map_files/%lx-%lx", known.pid, mapping.start.value,
                      mapping.end.value);
        known.linker_probe.reset(attach_linker_probe(*linker_probe_, *known.linker, known.pid, path.data()));
        return;
    }
}

void Publisher::remove(int32_t pid) {
    Known *known = find(pid);
    if (known == nullptr)
        return;
    bpf_map_delete_elem(maps_.slots_fd, &pid);
    bpf_map_delete_elem(maps_.reported_fd, &pid);
    exited(pid);
}

void Publisher::exited(int32_t pid) {
    const auto found = known_.find(pid);
    if (found == known_.end())
        return;
    Known &known = *found->second;
    withdraw(known);
    known.linker_probe.reset();
    slots_.give_back(known.slot, 1);
    retire(std::move(known.layout));
    known_.erase(found);
}

void Publisher::retire(std::shared_ptr<const Layout> layout) {
    constexpr size_t kKept = 256;
    if (layout == nullptr)
        return;
    former_layouts_.push_back(std::move(layout));
    if (former_layouts_.size() > kKept)
        former_layouts_.pop_front();
}

void Publisher::rearm(const Known &known) { store(maps_.processes()[known.slot].need_sent, uint32_t{0}); }

// Nothing is published of it any more, and what was will be free.
void Publisher::withdraw(Known &known) {
    write(known, {}, 0, 0, 0);
    mapping_blocks_.give_back(known.first, static_cast<uint32_t>(known.mappings.size()));
    for (const process::ModuleFile *file : known.tables)
        pool_.release(*file);
    known.mappings.clear();
    known.tables.clear();
    known.generation = 0;
}

void Publisher::asked(int32_t pid, uint64_t exec_pages) {
    Known *known = find(pid);
    if (known == nullptr)
        return;
    known->wanted = true;
    known->asked_pages = exec_pages;
}

uint64_t Publisher::look_again(uint64_t now) {
    // An exit is told behind all that the process has sent, but not where the ring buffer was full: then what it sent
    // has been taken in, or is not there, after this while.
    constexpr uint64_t kUntold = 1'000'000'000;
    uint64_t next = 0;
    std::vector<int32_t> gone;
    for (const auto &[pid, known] : known_) {
        if (load(maps_.processes()[known->slot].tgid) == 0) {
            if (known->gone_since == 0)
                known->gone_since = now;
            else if (now - known->gone_since > kUntold)
                gone.push_back(pid);
            continue;
        }
        if (!known->wanted)
            continue;
        if (known->not_before <= now) {
            known->wanted = false;
            const dwunw_status status = publish_timed(*known);
            if (status == DWUNW_OK || status == DWUNW_ERR_NO_PROCESS)
                continue;
            known->wanted = true; // e.g. memory: again later
        }
        if (next == 0 || known->not_before < next)
            next = known->not_before;
    }
    for (const int32_t pid : gone)
        exited(pid);
    return next;
}

// At most a third of the time goes into one process's map.
dwunw_status Publisher::publish_timed(Known &known) {
    const uint64_t before = now_ns();
    const dwunw_status status = publish(known);
    const uint64_t after = now_ns();
    known.failed = status != DWUNW_OK;
    known.not_before = after + 2 * (after - before);
    return status;
}

dwunw_status Publisher::publish_in_time(Known &known) {
    return known.failed && now_ns() < known.not_before ? DWUNW_ERR_LIMIT : publish_timed(known);
}

bool Publisher::next_generation(Known &known) {
    if (generation_ > DWUNW_BPF_MAX_GENERATION) {
        // They come round: nobody may be using an old one when its number is given out again.
        for (const auto &[pid, other] : known_) {
            withdraw(*other);
            other->wanted = true;
        }
        if (!maps_.grace.wait())
            return false;
        std::ranges::fill(maps_.rules(), dwunw_cached_rule{});
        generation_ = 1;
        known.wanted = false;
    }
    known.generation = generation_++;
    return true;
}

void Publisher::write(Known &known, const Published &published, uint32_t first, uint32_t count, uint64_t filter) {
    dwunw_process_slot &slot = maps_.processes()[known.slot];
    const uint32_t lock = slot.lock;
    store(slot.lock, lock + 1);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    slot.seen_changes = published.changes;
    slot.exec_pages = published.exec_pages;
    slot.layout = known.layout != nullptr ? known.layout->number() : 0;
    slot.code_filter = filter;
    slot.first = first;
    slot.count = count;
    slot.generation = count != 0 ? known.generation : 0;
    slot.need_sent = 0;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    store(slot.lock, lock + 2);
}

dwunw_status Publisher::publish(Known &known) {
    Published next;
    next.changes = changes(known);
    Process &process = process::of_handle(*known.process);
    if (auto status = process.refresh(); !status)
        return status.status();
    next.changes_after = changes(known);
    Process::CodeMappings code = process.code_mappings();
    const auto has_linker = [&] {
        return std::ranges::any_of(code.mappings,
                                   [&](const auto &mapping) { return mapping.binding.module == known.linker; });
    };
    if (known.linker != nullptr && !has_linker()) {
        // Another program, with another linker. What that did before it was watched is read once more.
        known.linker = nullptr;
        known.linker_probe.reset();
        watch_linker(known);
        next.changes = changes(known);
        if (auto status = process.refresh(); !status)
            return status.status();
        next.changes_after = changes(known);
        code = process.code_mappings();
    }
    next.map_generation = code.generation;

    std::vector<dwunw_mapping> mappings;
    std::vector<const process::ModuleFile *> tables;
    for (const auto &mapping : code.mappings) {
        dwunw_mapping out = {
            .start = mapping.start.value, .end = mapping.end.value, .origin = 0, .table = 0, .kind = 0};
        switch (mapping.binding.kind) {
        case CodeKind::kUprobeTrampoline:
            continue; // the kernel knows where it is
        case CodeKind::kAnonymous:
            out.kind = DWUNW_BPF_ANONYMOUS;
            break;
        case CodeKind::kModule:
            out.kind = DWUNW_BPF_NO_TABLE;
            // A file that cannot be read any more has none.
            if (const auto compiled = mapping.cfi != nullptr ? mapping.cfi->compile() : Error{DWUNW_ERR_NO_CFI}) {
                out.kind = DWUNW_BPF_NO_ROOM;
                const process::ModuleFile &file = *mapping.binding.module->file;
                if (const auto table = pool_.acquire(file, **compiled)) {
                    tables.push_back(&file);
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
        mappings.push_back(out);
    }
    const auto give_up = [&](dwunw_status status) {
        for (const process::ModuleFile *file : tables)
            pool_.release(*file);
        return status;
    };
    if (mappings.size() > DWUNW_BPF_MAX_MAPPINGS)
        return give_up(DWUNW_ERR_LIMIT);
    const auto count = static_cast<uint32_t>(mappings.size());
    uint32_t first = 0;
    if (count != 0) {
        const auto block = mapping_blocks_.take(count);
        if (!block)
            return give_up(DWUNW_ERR_LIMIT);
        first = *block;
        std::ranges::copy(mappings, maps_.mappings().begin() + first);
    }
    // A map that explains what it did before, and a kernel that has asked because of its count of pages: it counts some
    // that the map does not show, or the other way round.
    const bool same_map = known.mappings.size() == mappings.size() && keeps(known.mappings, mappings);
    if (same_map && known.published.changes == next.changes && known.asked_pages != 0)
        known.unexplained_pages = known.asked_pages - code.exec_pages;
    known.asked_pages = 0;
    next.exec_pages = code.exec_pages + known.unexplained_pages;

    next.follow(known.generation != 0 ? &known.published : nullptr, keeps_modules(known.mappings, mappings));
    if (known.layout == nullptr || !known.layout->extend(code.mappings)) {
        next.begin();
        retire(std::move(known.layout));
        known.layout = std::make_shared<Layout>(++layouts_);
        known.layout->extend(code.mappings);
        std::erase_if(layout_numbers_, [](const auto &entry) { return entry.second.expired(); });
        layout_numbers_.emplace(known.layout->number(), known.layout);
    }
    const bool kept = known.generation != 0 && keeps(known.mappings, mappings);
    const uint32_t old_first = known.first;
    const auto old_count = static_cast<uint32_t>(known.mappings.size());
    if (!kept && !next_generation(known)) {
        mapping_blocks_.give_back(first, count);
        return give_up(DWUNW_ERR_BPF);
    }
    write(known, next, first, count, code_filter(mappings));
    // All of them may have been withdrawn for the generations to come round, this one included.
    if (!known.mappings.empty() || old_count == 0)
        mapping_blocks_.give_back(old_first, old_count);
    for (const process::ModuleFile *file : known.tables)
        pool_.release(*file);
    known.first = first;
    known.mappings = std::move(mappings);
    known.tables = std::move(tables);
    known.published = next;
    ++publications_;
    return DWUNW_OK;
}

} // namespace dwunw::bpf
