// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/bpf_publisher_test and, in the kernel, by tests/integration/bpf_walk_test.py: a storm of dlopen
// and dlclose, exec after exec, fork.
#include "bpf/publisher.h"

#include "base/clock.h"
#include "bpf/start_addresses.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace dwunw::bpf {
namespace {

using unwind::CodeKind;

// The longest time that a record may take from its making to the ring buffer. After it, no older record can still come.
constexpr uint64_t kOnTheWay = 1'000'000'000;

} // namespace

Publisher::Publisher(dwunw_context *context, BpfMaps &maps, std::optional<LinkerProbe> linker_probe,
                     uint32_t first_generation)
    : context_(context), maps_(maps), linker_probe_(linker_probe),
      pool_(maps.pool(), [&] { return maps.wait_for_programs(); }),
      mapping_blocks_(static_cast<uint32_t>(maps.mappings().size()), [&] { return maps.wait_for_programs(); }),
      slots_(static_cast<uint32_t>(maps.processes().size()), [&] { return maps.wait_for_programs(); }),
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
    if (!maps_.set_slot(pid, *slot)) {
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
    maps_.forget_process(pid);
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
    if (!maps_.wait_for_programs())
        return false;
    std::ranges::fill(maps_.rules(), dwunw_cached_rule{});
    generation_ = 1;
    return true;
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
