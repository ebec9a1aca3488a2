// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/integration/bpf_walk_test.py: a storm of dlopen and dlclose, exec after exec, fork.
#include "bpf/publisher.h"

#include "base/clock.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <elf.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace dwunw::bpf {
namespace {

using process::Process;
using unwind::CodeKind;

// The longest time that a record may take from its making to the ring buffer. After it, no older record can still come.
constexpr uint64_t kOnTheWay = 1'000'000'000;

template <typename T> T load(const T &shared) { return __atomic_load_n(&shared, __ATOMIC_ACQUIRE); }
template <typename T> void put(T &shared, T value) { __atomic_store_n(&shared, value, __ATOMIC_RELEASE); }

// The dynamic linker's address (0: the program has none), and the program's entry point.
struct StartAddresses {
    uint64_t linker = 0;
    uint64_t entry = 0;
    uint64_t linker_or_program() const { return linker != 0 ? linker : entry; }
};
StartAddresses start_addresses(int32_t pid) {
    std::array<char, 32> path{};
    std::snprintf(path.data(), path.size(), "/proc/%d/auxv", pid);
    const UniqueFd fd(::open(path.data(), O_RDONLY | O_CLOEXEC));
    std::array<Elf64_auxv_t, 64> entries{};
    StartAddresses result;
    if (!fd.valid())
        return result;
    const ssize_t got = ::read(fd.get(), entries.data(), sizeof(entries));
    for (size_t i = 0; got > 0 && i < static_cast<size_t>(got) / sizeof(entries[0]); ++i) {
        if (entries[i].a_type == AT_BASE)
            result.linker = entries[i].a_un.a_val;
        else if (entries[i].a_type == AT_ENTRY)
            result.entry = entries[i].a_un.a_val;
    }
    return result;
}

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

Publisher::Publisher(dwunw_context *context, BpfMaps &maps, std::optional<LinkerProbe> linker_probe,
                     uint32_t first_generation)
    : context_(context), maps_(maps), linker_probe_(linker_probe),
      pool_(maps.pool(), [&] { return maps.grace.wait(); }),
      mapping_blocks_(static_cast<uint32_t>(maps.mappings().size()), [&] { return maps.grace.wait(); }),
      slots_(static_cast<uint32_t>(maps.processes().size()), [&] { return maps.grace.wait(); }),
      generation_(first_generation) {
    // If it fails, user space can walk a stack only if the map has not changed.
    (void)watch_.open();
}

Publisher::TrackedProcess *Publisher::find(int32_t pid) {
    const auto found = tracked_.find(pid);
    return found == tracked_.end() ? nullptr : found->second.get();
}

std::shared_ptr<const Layout> Publisher::layout(uint64_t number) const {
    const auto found = layout_numbers_.find(number);
    return found == layout_numbers_.end() ? nullptr : found->second.lock();
}

uint64_t Publisher::changes(const TrackedProcess &tracked) const {
    return load(maps_.processes()[tracked.slot].changes);
}

size_t Publisher::watched_linkers() const {
    return static_cast<size_t>(
        std::ranges::count_if(tracked_, [](const auto &entry) { return entry.second->linker_probe.has_value(); }));
}

dwunw_status Publisher::add(int32_t pid) {
    if (TrackedProcess *tracked = find(pid)) {
        if (load(maps_.processes()[tracked->slot].tgid) != 0)
            return publish(*tracked);
        exited(pid); // another process has the number now
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
    auto tracked = std::make_unique<TrackedProcess>();
    tracked->pid = pid;
    tracked->process.reset(process);
    tracked->history.lose(now_ns()); // earlier mappings belonged to another process
    const auto slot = slots_.take(1);
    if (!slot)
        return DWUNW_ERR_LIMIT;
    tracked->slot = *slot;
    // From here on the kernel counts changes. It sends no request while the first map is being read.
    dwunw_process_slot &shared = maps_.processes()[*slot];
    shared = {};
    shared.need_sent = 1;
    shared.tgid = static_cast<uint32_t>(pid);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (bpf_map_update_elem(maps_.slots_fd, &pid, &*slot, BPF_ANY) != 0) {
        slots_.give_back(*slot, 1);
        return DWUNW_ERR_BPF;
    }
    TrackedProcess &added = *(tracked_[pid] = std::move(tracked));
    watch_linker(added);
    const dwunw_status status = publish(added);
    if (status != DWUNW_OK)
        remove(pid);
    return status;
}

void Publisher::watch_linker(TrackedProcess &tracked) {
    if (!linker_probe_)
        return;
    const uint64_t address = start_addresses(tracked.pid).linker_or_program();
    const auto code = tracked.process->impl->code_mappings();
    for (const auto &mapping : code.mappings) {
        // AT_BASE is the address of the file's first byte, which lies in a mapping before its code.
        const bool is_it = address != 0 && mapping.binding.kind == CodeKind::kModule &&
                           mapping.end > RunAddr(address) &&
                           (mapping.start <= RunAddr(address) || mapping.start.value - address < (uint64_t{1} << 20));
        if (!is_it)
            continue;
        tracked.linker = mapping.binding.module;
        std::array<char, 96> path{};
        std::snprintf(path.data(), path.size(), "/proc/%d/map_files/%lx-%lx", tracked.pid, mapping.start.value,
                      mapping.end.value);
        if (tracked.linker->file != nullptr)
            tracked.linker_probe = linker_probe_->attach(*tracked.linker->file, tracked.pid, path.data());
        return;
    }
}

void Publisher::remove(int32_t pid) {
    TrackedProcess *tracked = find(pid);
    if (tracked == nullptr)
        return;
    bpf_map_delete_elem(maps_.slots_fd, &pid);
    bpf_map_delete_elem(maps_.reported_fd, &pid);
    exited(pid);
}

void Publisher::exited(int32_t pid) {
    const auto found = tracked_.find(pid);
    if (found == tracked_.end())
        return;
    TrackedProcess &tracked = *found->second;
    withdraw(tracked);
    tracked.linker_probe.reset();
    slots_.give_back(tracked.slot, 1);
    retire(std::move(tracked.layout));
    retire(std::move(tracked.lasting_layout));
    tracked_.erase(found);
}

void Publisher::retire(std::shared_ptr<const Layout> layout) {
    constexpr size_t kKept = 256;
    constexpr size_t kKeptBytes = size_t{16} << 20;
    if (layout == nullptr)
        return;
    former_bytes_ += layout->bytes();
    former_layouts_.push_back(std::move(layout));
    while (former_layouts_.size() > kKept || (former_bytes_ > kKeptBytes && former_layouts_.size() > 2)) {
        former_bytes_ -= former_layouts_.front()->bytes();
        former_layouts_.pop_front();
    }
}

void Publisher::rearm(const TrackedProcess &tracked) { put(maps_.processes()[tracked.slot].need_sent, uint32_t{0}); }

// Publishes nothing of the process any more, and frees what was published.
void Publisher::withdraw(TrackedProcess &tracked) {
    mapping_blocks_.give_back(tracked.first, tracked.count);
    mapping_blocks_.give_back(tracked.lasting_first, static_cast<uint32_t>(tracked.lasting.size()));
    tracked.first = tracked.count = tracked.generation = tracked.lasting_first = tracked.lasting_generation = 0;
    tracked.incomplete = false;
    write(tracked, {}, 0);
    for (const process::Module *file : tracked.tables)
        pool_.release(*file);
    tracked.mappings.clear();
    tracked.lasting.clear();
    tracked.tables.clear();
}

void Publisher::asked(int32_t pid, uint64_t exec_pages) {
    TrackedProcess *tracked = find(pid);
    if (tracked == nullptr)
        return;
    constexpr uint64_t kMoment = 50'000'000;
    constexpr uint64_t kFirstRest = 5'000'000;
    constexpr uint64_t kLongestRest = 500'000'000;
    const uint64_t now = now_ns();
    if (!tracked->wanted)
        tracked->rest =
            now - tracked->published_at > kMoment ? 0 : std::clamp(2 * tracked->rest, kFirstRest, kLongestRest);
    if (tracked->may_wait())
        tracked->not_before = std::max(tracked->not_before, tracked->published_at + tracked->rest);
    tracked->wanted = true;
    tracked->asked_pages = exec_pages;
}

uint64_t Publisher::look_again(uint64_t now) {
    // The kernel reports an exit after all records of the process, but not if the ring buffer was full. After this
    // time, these records have been taken in, or were lost.
    constexpr uint64_t kUntold = 1'000'000'000;
    uint64_t next = 0;
    std::vector<int32_t> gone;
    for (const auto &[pid, tracked] : tracked_) {
        if (load(maps_.processes()[tracked->slot].tgid) == 0) {
            if (tracked->gone_since == 0)
                tracked->gone_since = now;
            else if (now - tracked->gone_since > kUntold)
                gone.push_back(pid);
            continue;
        }
        if (!tracked->wanted)
            continue;
        if (tracked->not_before <= now) {
            tracked->wanted = false;
            const dwunw_status status = publish_timed(*tracked);
            if (status == DWUNW_OK || status == DWUNW_ERR_NO_PROCESS)
                continue;
            tracked->wanted = true; // it failed, for example for lack of memory: try again later
        }
        if (next == 0 || tracked->not_before < next)
            next = tracked->not_before;
    }
    for (const int32_t pid : gone)
        exited(pid);
    return next;
}

// Reading one process's map takes at most a third of the time, or a twentieth.
dwunw_status Publisher::publish_timed(TrackedProcess &tracked) {
    constexpr uint64_t kCheap = 1'000'000;
    const uint64_t before = now_ns();
    const dwunw_status status = publish(tracked);
    const uint64_t after = now_ns();
    tracked.failed = status != DWUNW_OK;
    tracked.published_at = after;
    tracked.not_before = after + (tracked.may_wait() ? 19 : 2) * (after - before);
    tracked.in_time_not_before = tracked.failed || after - before > kCheap ? after + 2 * (after - before) : 0;
    return status;
}

dwunw_status Publisher::publish_in_time(TrackedProcess &tracked) {
    return now_ns() < tracked.in_time_not_before ? DWUNW_ERR_LIMIT : publish_timed(tracked);
}

// One publication takes two generations.
bool Publisher::generations_for_one_more() {
    if (generation_ + 1 <= DWUNW_BPF_MAX_GENERATION)
        return true;
    // Generations wrap around. No process may use an old one when its number is given out again.
    for (const auto &[pid, other] : tracked_) {
        withdraw(*other);
        other->wanted = true;
    }
    if (!maps_.grace.wait())
        return false;
    std::ranges::fill(maps_.rules(), dwunw_cached_rule{});
    generation_ = 1;
    return true;
}

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

dwunw_status Publisher::publish(TrackedProcess &tracked) {
    if (!generations_for_one_more())
        return DWUNW_ERR_BPF;
    tracked.wanted = false;
    Process &process = *tracked.process->impl;
    const dwunw_process_slot &slot = maps_.processes()[tracked.slot];
    PublishedMap next;
    MapReading reading;
    const auto read = [&]() -> dwunw_status {
        reading.execs = load(slot.execs);
        next.changes = changes(tracked);
        reading.begin = now_ns();
        if (auto status = process.refresh(); !status)
            return status.status();
        reading.end = now_ns();
        next.changes_after = changes(tracked);
        reading.snapshot = process.snapshot();
        return DWUNW_OK;
    };
    if (const dwunw_status status = read(); status != DWUNW_OK)
        return status;
    Process::CodeMappings code = process.code_mappings();
    const auto has_linker = [&] {
        return std::ranges::any_of(code.mappings,
                                   [&](const auto &mapping) { return mapping.binding.module == tracked.linker; });
    };
    if (tracked.linker != nullptr && !has_linker()) {
        // Another program, with another linker. Events before the new linker was watched are unknown, so read the map
        // once more.
        tracked.linker = nullptr;
        tracked.linker_probe.reset();
        watch_linker(tracked);
        if (const dwunw_status status = read(); status != DWUNW_OK)
            return status;
        code = process.code_mappings();
    }
    next.map_generation = code.generation;
    if (code.generation == reading.snapshot->generation && load(slot.execs) == reading.execs)
        note_reading(tracked, reading);

    Entries entries = entries_of(code);
    const std::vector<dwunw_mapping> &mappings = entries.mappings;
    // The map is unchanged, but the kernel has asked because of its count of pages: it counts pages that the map does
    // not show, or the reverse.
    const bool keeps_all = keeps(tracked.mappings, mappings);
    const bool same_map = tracked.mappings.size() == mappings.size() && keeps_all;
    if (same_map && tracked.published.changes == next.changes && tracked.asked_pages != 0)
        tracked.unexplained_pages = tracked.asked_pages - code.exec_pages;
    tracked.asked_pages = 0;
    Block before;
    Block lasting_before;
    if (tracked.generation == 0 || !same_map) {
        before = {tracked.first, tracked.count};
        const Block now = store_map(tracked, entries);
        tracked.first = now.first;
        tracked.count = now.count;
    }
    next.exec_pages = code.exec_pages + tracked.unexplained_pages;

    next.follow(tracked.generation != 0 ? &tracked.published : nullptr, keeps_modules(tracked.mappings, mappings));
    if (!extend(tracked.layout, code.mappings))
        next.begin();
    if (tracked.generation == 0 || !keeps_all)
        tracked.generation = generation_++;
    publish_lasting(tracked, code, entries, reading.execs, lasting_before);
    write(tracked, next, code_filter(mappings));
    mapping_blocks_.give_back(before.first, before.count);
    mapping_blocks_.give_back(lasting_before.first, lasting_before.count);
    for (const process::Module *file : tracked.tables)
        pool_.release(*file);
    tracked.mappings = std::move(entries.mappings);
    tracked.tables = std::move(entries.tables);
    tracked.published = next;
    ++publications_;
    return DWUNW_OK;
}

void Publisher::note_reading(TrackedProcess &tracked, const MapReading &reading) {
    if (!watch_.is_open())
        return;
    const bool goes_on = tracked.reading && tracked.reading->execs == reading.execs &&
                         tracked.reading->begin > tracked.history.known_since();
    if (!goes_on) {
        tracked.reading = reading;
        tracked.next_reading.reset();
    } else if (!tracked.next_reading) {
        tracked.next_reading = reading;
    }
}

void Publisher::watch_maps() {
    if (!watch_.is_open())
        return;
    const bool complete = watch_.drain([&](int32_t pid) { return tracked_.contains(pid); },
                                       [&](const MapWatch::Came &came) {
                                           MapHistory &history = tracked_.at(came.pid)->history;
                                           if (came.mapped != nullptr)
                                               history.add(came.mapped);
                                           else
                                               history.add_exec(came.time);
                                       });
    if (complete)
        return;
    for (const auto &[pid, tracked] : tracked_)
        tracked->history.lose(watch_.drained());
}

void Publisher::settled(uint64_t time) {
    for (const auto &[pid, tracked] : tracked_) {
        if (!tracked->next_reading || tracked->next_reading->end + kOnTheWay > time)
            continue;
        tracked->reading = std::move(tracked->next_reading);
        tracked->next_reading.reset();
        tracked->history.forget_before(tracked->reading->begin);
    }
}

std::optional<Moment> Publisher::moment(TrackedProcess &tracked, uint64_t time, uint64_t execs, uint64_t now) {
    if (time > watch_.drained())
        watch_maps();
    if (!watch_.is_open() || time > watch_.drained())
        return std::nullopt;
    process::Process &process = *tracked.process->impl;
    if (tracked.reading && tracked.reading->execs == execs && time >= tracked.reading->end &&
        tracked.reading->begin > tracked.history.known_since())
        return std::make_optional<Moment>(process, *tracked.reading, tracked.history, time, file_checks_, now);
    const auto executed = tracked.history.executed(time);
    return executed ? std::make_optional<Moment>(process, *executed, tracked.history, time, file_checks_, now)
                    : std::nullopt;
}

} // namespace dwunw::bpf
