// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/integration/bpf_walk_test.py: a storm of dlopen and dlclose, exec after exec, fork.
#include "bpf/publisher.h"

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

Publisher::Publisher(dwunw_context *context, KernelMaps &maps, std::optional<LinkerProbe> linker_probe,
                     uint32_t first_generation)
    : context_(context), maps_(maps), linker_probe_(linker_probe),
      pool_(maps.pool(), [&] { return maps.grace.wait(); }),
      mapping_blocks_(static_cast<uint32_t>(maps.mappings().size()), [&] { return maps.grace.wait(); }),
      slots_(static_cast<uint32_t>(maps.processes().size()), [&] { return maps.grace.wait(); }),
      generation_(first_generation) {
    // If it fails, user space can walk a stack only if the map has not changed.
    (void)watch_.open();
}

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
        std::ranges::count_if(known_, [](const auto &entry) { return entry.second->linker_probe.has_value(); }));
}

dwunw_status Publisher::add(int32_t pid) {
    if (Known *known = find(pid)) {
        if (load(maps_.processes()[known->slot].tgid) != 0)
            return publish(*known);
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
    auto known = std::make_unique<Known>();
    known->pid = pid;
    known->process.reset(process);
    known->history.lose(now_ns()); // earlier mappings belonged to another process
    const auto slot = slots_.take(1);
    if (!slot)
        return DWUNW_ERR_LIMIT;
    known->slot = *slot;
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
    const uint64_t address = start_addresses(known.pid).linker_or_program();
    const auto code = process::of_handle(*known.process).code_mappings();
    for (const auto &mapping : code.mappings) {
        // AT_BASE is the address of the file's first byte, which lies in a mapping before its code.
        const bool is_it = address != 0 && mapping.binding.kind == CodeKind::kModule &&
                           mapping.end > RunAddr(address) &&
                           (mapping.start <= RunAddr(address) || mapping.start.value - address < (uint64_t{1} << 20));
        if (!is_it)
            continue;
        known.linker = mapping.binding.module;
        std::array<char, 96> path{};
        std::snprintf(path.data(), path.size(), "/proc/%d/map_files/%lx-%lx", known.pid, mapping.start.value,
                      mapping.end.value);
        if (known.linker->file != nullptr)
            known.linker_probe = linker_probe_->attach(*known.linker->file, known.pid, path.data());
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
    retire(std::move(known.lasting_layout));
    known_.erase(found);
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

void Publisher::rearm(const Known &known) { put(maps_.processes()[known.slot].need_sent, uint32_t{0}); }

// Publishes nothing of the process any more, and frees what was published.
void Publisher::withdraw(Known &known) {
    mapping_blocks_.give_back(known.first, known.count);
    mapping_blocks_.give_back(known.lasting_first, static_cast<uint32_t>(known.lasting.size()));
    known.first = known.count = known.generation = known.lasting_first = known.lasting_generation = 0;
    known.incomplete = false;
    write(known, {}, 0);
    for (const process::ModuleFile *file : known.tables)
        pool_.release(*file);
    known.mappings.clear();
    known.lasting.clear();
    known.tables.clear();
}

void Publisher::asked(int32_t pid, uint64_t exec_pages) {
    Known *known = find(pid);
    if (known == nullptr)
        return;
    constexpr uint64_t kMoment = 50'000'000;
    constexpr uint64_t kFirstRest = 5'000'000;
    constexpr uint64_t kLongestRest = 500'000'000;
    const uint64_t now = now_ns();
    if (!known->wanted)
        known->rest = now - known->published_at > kMoment ? 0 : std::clamp(2 * known->rest, kFirstRest, kLongestRest);
    if (known->may_wait())
        known->not_before = std::max(known->not_before, known->published_at + known->rest);
    known->wanted = true;
    known->asked_pages = exec_pages;
}

uint64_t Publisher::look_again(uint64_t now) {
    // The kernel reports an exit after all records of the process, but not if the ring buffer was full. After this
    // time, these records have been taken in, or were lost.
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
            known->wanted = true; // it failed, for example for lack of memory: try again later
        }
        if (next == 0 || known->not_before < next)
            next = known->not_before;
    }
    for (const int32_t pid : gone)
        exited(pid);
    return next;
}

// Reading one process's map takes at most a third of the time, or a twentieth.
dwunw_status Publisher::publish_timed(Known &known) {
    constexpr uint64_t kCheap = 1'000'000;
    const uint64_t before = now_ns();
    const dwunw_status status = publish(known);
    const uint64_t after = now_ns();
    known.failed = status != DWUNW_OK;
    known.published_at = after;
    known.not_before = after + (known.may_wait() ? 19 : 2) * (after - before);
    known.in_time_not_before = known.failed || after - before > kCheap ? after + 2 * (after - before) : 0;
    return status;
}

dwunw_status Publisher::publish_in_time(Known &known) {
    return now_ns() < known.in_time_not_before ? DWUNW_ERR_LIMIT : publish_timed(known);
}

// One publication takes two generations.
bool Publisher::generations_for_one_more() {
    if (generation_ + 1 <= DWUNW_BPF_MAX_GENERATION)
        return true;
    // Generations wrap around. No process may use an old one when its number is given out again.
    for (const auto &[pid, other] : known_) {
        withdraw(*other);
        other->wanted = true;
    }
    if (!maps_.grace.wait())
        return false;
    std::ranges::fill(maps_.rules(), dwunw_cached_rule{});
    generation_ = 1;
    return true;
}

void Publisher::write(Known &known, const Published &published, uint64_t filter) {
    dwunw_process_slot &slot = maps_.processes()[known.slot];
    const uint32_t lock = slot.lock;
    put(slot.lock, lock + 1);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    slot.seen_changes = published.changes;
    slot.exec_pages = published.exec_pages;
    slot.layout = known.layout != nullptr ? known.layout->number() : 0;
    slot.code_filter = filter;
    slot.first = known.first;
    slot.count = known.count;
    slot.generation = known.count != 0 || known.incomplete ? known.generation : 0;
    slot.incomplete = known.incomplete;
    slot.seen_execs = known.execs;
    slot.lasting_layout = known.lasting_layout != nullptr ? known.lasting_layout->number() : 0;
    slot.lasting_first = known.lasting_first;
    slot.lasting_count = static_cast<uint32_t>(known.lasting.size());
    slot.lasting_generation = known.lasting_generation;
    slot.need_sent = 0;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    put(slot.lock, lock + 2);
}

struct Publisher::Entries {
    std::vector<dwunw_mapping> mappings;
    std::vector<size_t> of_code; // for each entry, its index in the code mappings
    std::vector<const process::ModuleFile *> tables;
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
                const process::ModuleFile &file = *mapping.binding.module->file;
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
Publisher::Block Publisher::store_map(Known &known, const Entries &entries) {
    known.incomplete = false;
    if (const auto all = store(entries.mappings))
        return *all;
    known.incomplete = true;
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
    const process::ModuleFile *file = module.file;
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
void Publisher::publish_lasting(Known &known, const Process::CodeMappings &code, const Entries &entries, uint64_t execs,
                                Block &before) {
    const bool same_program = known.lasting_generation != 0 && known.execs == execs;
    if (same_program && known.lasting_whole && keeps(known.lasting, entries.mappings))
        return;
    const StartAddresses at = start_addresses(known.pid);
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
    known.lasting_whole = lasting.whole;
    if (same_program && mappings.size() == known.lasting.size() && keeps(known.lasting, mappings))
        return;
    const auto block = mappings.empty() ? std::nullopt : store(mappings);
    const bool kept = block && same_program && keeps(known.lasting, mappings);
    before = {known.lasting_first, static_cast<uint32_t>(known.lasting.size())};
    known.execs = execs;
    if (!block) {
        known.lasting.clear();
        known.lasting_first = known.lasting_generation = 0;
        return;
    }
    extend(known.lasting_layout, named);
    if (!kept)
        known.lasting_generation = generation_++;
    known.lasting_first = block->first;
    known.lasting = std::move(mappings);
}

dwunw_status Publisher::publish(Known &known) {
    if (!generations_for_one_more())
        return DWUNW_ERR_BPF;
    known.wanted = false;
    Process &process = process::of_handle(*known.process);
    const dwunw_process_slot &slot = maps_.processes()[known.slot];
    Published next;
    MapReading reading;
    const auto read = [&]() -> dwunw_status {
        reading.execs = load(slot.execs);
        next.changes = changes(known);
        reading.begin = now_ns();
        if (auto status = process.refresh(); !status)
            return status.status();
        reading.end = now_ns();
        next.changes_after = changes(known);
        reading.snapshot = process.snapshot();
        return DWUNW_OK;
    };
    if (const dwunw_status status = read(); status != DWUNW_OK)
        return status;
    Process::CodeMappings code = process.code_mappings();
    const auto has_linker = [&] {
        return std::ranges::any_of(code.mappings,
                                   [&](const auto &mapping) { return mapping.binding.module == known.linker; });
    };
    if (known.linker != nullptr && !has_linker()) {
        // Another program, with another linker. Events before the new linker was watched are unknown, so read the map
        // once more.
        known.linker = nullptr;
        known.linker_probe.reset();
        watch_linker(known);
        if (const dwunw_status status = read(); status != DWUNW_OK)
            return status;
        code = process.code_mappings();
    }
    next.map_generation = code.generation;
    if (code.generation == reading.snapshot->generation && load(slot.execs) == reading.execs)
        note_reading(known, reading);

    Entries entries = entries_of(code);
    const std::vector<dwunw_mapping> &mappings = entries.mappings;
    // The map is unchanged, but the kernel has asked because of its count of pages: it counts pages that the map does
    // not show, or the reverse.
    const bool keeps_all = keeps(known.mappings, mappings);
    const bool same_map = known.mappings.size() == mappings.size() && keeps_all;
    if (same_map && known.published.changes == next.changes && known.asked_pages != 0)
        known.unexplained_pages = known.asked_pages - code.exec_pages;
    known.asked_pages = 0;
    Block before;
    Block lasting_before;
    if (known.generation == 0 || !same_map) {
        before = {known.first, known.count};
        const Block now = store_map(known, entries);
        known.first = now.first;
        known.count = now.count;
    }
    next.exec_pages = code.exec_pages + known.unexplained_pages;

    next.follow(known.generation != 0 ? &known.published : nullptr, keeps_modules(known.mappings, mappings));
    if (!extend(known.layout, code.mappings))
        next.begin();
    if (known.generation == 0 || !keeps_all)
        known.generation = generation_++;
    publish_lasting(known, code, entries, reading.execs, lasting_before);
    write(known, next, code_filter(mappings));
    mapping_blocks_.give_back(before.first, before.count);
    mapping_blocks_.give_back(lasting_before.first, lasting_before.count);
    for (const process::ModuleFile *file : known.tables)
        pool_.release(*file);
    known.mappings = std::move(entries.mappings);
    known.tables = std::move(entries.tables);
    known.published = next;
    ++publications_;
    return DWUNW_OK;
}

void Publisher::note_reading(Known &known, const MapReading &reading) {
    if (!watch_.is_open())
        return;
    const bool goes_on =
        known.reading && known.reading->execs == reading.execs && known.reading->begin > known.history.known_since();
    if (!goes_on) {
        known.reading = reading;
        known.next_reading.reset();
    } else if (!known.next_reading) {
        known.next_reading = reading;
    }
}

void Publisher::watch_maps() {
    if (!watch_.is_open())
        return;
    const bool complete = watch_.drain([&](int32_t pid) { return known_.contains(pid); },
                                       [&](const MapWatch::Came &came) {
                                           MapHistory &history = known_.at(came.pid)->history;
                                           if (came.mapped != nullptr)
                                               history.add(came.mapped);
                                           else
                                               history.add_exec(came.time);
                                       });
    if (complete)
        return;
    for (const auto &[pid, known] : known_)
        known->history.lose(watch_.drained());
}

void Publisher::settled(uint64_t time) {
    for (const auto &[pid, known] : known_) {
        if (!known->next_reading || known->next_reading->end + kOnTheWay > time)
            continue;
        known->reading = std::move(known->next_reading);
        known->next_reading.reset();
        known->history.forget_before(known->reading->begin);
    }
}

std::optional<Moment> Publisher::moment(Known &known, uint64_t time, uint64_t execs, uint64_t now) {
    if (time > watch_.drained())
        watch_maps();
    if (!watch_.is_open() || time > watch_.drained())
        return std::nullopt;
    process::Process &process = process::of_handle(*known.process);
    if (known.reading && known.reading->execs == execs && time >= known.reading->end &&
        known.reading->begin > known.history.known_since())
        return std::make_optional<Moment>(process, *known.reading, known.history, time, file_checks_, now);
    const auto executed = known.history.executed(time);
    return executed ? std::make_optional<Moment>(process, *executed, known.history, time, file_checks_, now)
                    : std::nullopt;
}

} // namespace dwunw::bpf
