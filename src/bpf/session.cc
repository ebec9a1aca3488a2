// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Walks the records that hold registers and stack bytes. Each is walked with the process's current map, or with the map
// of the record's moment.
//
//     record:        moment 10.3 s, changes 8, layout 3
//     current map?   layout 3, changes 8 before and after the reading       yes: walk_now()
//                    layout 4                                               no: walk_then() with the map of 10.3 s
//     neither?       the first address, and DWUNW_ERR_MODULE_CHANGED
//
// The current map is right if no address has another meaning than at the moment. Any of these proves it:
//   - the kernel had a layout for the record, and the process still has that layout;
//   - the kernel's counts of changes and of executable pages equal those of the map, before and after its reading;
//   - the record lies between two readings that leave no room for an unseen change (map_validity.h).
//
// The map of the moment is an earlier reading, and every mapping that came since, with its time (map_watch.h,
// moment.h). A thread in a probe has the code of its stack mapped. So at the record's moment, the last mapping that
// came to an address of its stack is the one that is there, even if others came and went. All times are of one clock. A
// mapping's time is taken before the system call that makes it returns, and code in it runs later. This is valid only
// for modules whose file still has the content that was loaded, and only by call-frame information: the code itself can
// no longer be read.
#include "bpf/session.h"

#include "bpf/other_callers.h"
#include "bpf/pid_namespace.h"
#include "unwind/walk.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <new>

namespace dwunw::bpf {
namespace {

constexpr size_t kMaxFrames = 1024; // of a stack that user space walks

uint64_t now_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint32_t or_default(uint32_t value, uint32_t otherwise) { return value != 0 ? value : otherwise; }

bool set_size(bpf_object *object, const char *name, uint32_t entries) {
    bpf_map *map = bpf_object__find_map_by_name(object, name);
    return map != nullptr && bpf_map__set_max_entries(map, entries) == 0;
}

// The memory that the kernel charges for a map; 0: it does not say.
uint64_t map_memory(int fd) {
    std::array<char, 64> path{};
    std::snprintf(path.data(), path.size(), "/proc/self/fdinfo/%d", fd);
    std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen(path.data(), "re"), std::fclose);
    std::array<char, 256> line{};
    uint64_t bytes = 0;
    while (file != nullptr && std::fgets(line.data(), line.size(), file.get()) != nullptr)
        if (std::sscanf(line.data(), "memlock: %" SCNu64, &bytes) == 1)
            return bytes;
    return 0;
}

// A record's stack bytes. Unreadable pages are missing.
struct Slice {
    explicit Slice(const dwunw_walk_event &event)
        : start(event.stack_addr), bytes(reinterpret_cast<const uint8_t *>(&event + 1)), size(event.stack_len),
          pages(event.pages) {}

    bool readable(uint64_t offset) const {
        const uint64_t page = (start % DWUNW_BPF_PAGE + offset) / DWUNW_BPF_PAGE;
        return page < 32 && (pages >> page & 1) != 0;
    }
    // As dwunw_read_memory_fn.
    static size_t read(void *arg, uint64_t address, void *buffer, size_t length) {
        const auto &slice = *static_cast<const Slice *>(arg);
        uint64_t offset = address - slice.start;
        size_t done = 0;
        while (done < length && offset < slice.size && slice.readable(offset)) {
            static_cast<uint8_t *>(buffer)[done++] = slice.bytes[offset++];
        }
        return done;
    }
    // The number of bytes before the first missing page.
    size_t contiguous() const {
        size_t offset = 0;
        while (offset < size && readable(offset))
            offset += DWUNW_BPF_PAGE - (start + offset) % DWUNW_BPF_PAGE;
        return std::min<size_t>(offset, size);
    }

    uint64_t start;
    const uint8_t *bytes;
    size_t size;
    uint32_t pages;
};

} // namespace

uint64_t random_number() {
    uint64_t number = 0;
    // Without randomness, a target could make lookups slow, but not wrong.
    if (::getrandom(&number, sizeof(number), 0) != sizeof(number))
        number = now_ns();
    return number;
}

void RingDestroyer::operator()(ring_buffer *ring) const { ring_buffer__free(ring); }

dwunw_status Session::open() {
    features_ = KernelFeatures::probe(options_.flags);
    const bool off = (options_.flags & DWUNW_BPF_OFF) != 0;
    if (features_.usable != DWUNW_OK)
        return features_.usable;
    const auto pid_namespace = find_pid_namespace();
    if (!pid_namespace && !off)
        return pid_namespace.error().status;
    pid_namespace_ = pid_namespace ? *pid_namespace : 0;
    bpf_map *settings_map = bpf_object__find_map_by_name(object_, ".rodata.dwunw");
    size_t size = 0;
    auto *settings =
        settings_map != nullptr
            ? static_cast<dwunw_settings *>(const_cast<void *>(bpf_map__initial_value(settings_map, &size)))
            : nullptr;
    // Objects that were linked to one all have a copy; the first one's is used.
    if (settings == nullptr || size == 0 || size % sizeof(*settings) != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    options_.slice_bytes =
        std::min<uint32_t>(or_default(options_.slice_bytes, DWUNW_BPF_SLICE_MAX), DWUNW_BPF_SLICE_MAX);
    settings->use_bpf_loop = features_.loop;
    settings->use_task_storage = features_.task_storage;
    settings->use_find_vma = features_.find_vma;
    settings->max_frames = features_.loop ? DWUNW_BPF_MAX_FRAMES : DWUNW_BPF_MAX_FRAMES_OLD;
    settings->slice_bytes = options_.slice_bytes;
    settings->report_unknown = (options_.flags & DWUNW_BPF_ADD_UNKNOWN) != 0;
    settings->path_limit = or_default(options_.path_limit, 256);
    settings->pid_namespace = pid_namespace_;
    settings->off = off;
    if (off) {
        options_.pool_bytes = options_.ring_bytes = 4096;
        options_.mappings = options_.processes = options_.stack_ids = 1;
    }
    if (::getrandom(&settings->seed, sizeof(settings->seed), 0) != sizeof(settings->seed))
        return DWUNW_ERR_IO;

    const uint32_t processes = or_default(options_.processes, 1024);
    const uint32_t threads = features_.task_storage ? 1 : or_default(options_.threads, 1024);
    const bool sized = set_size(object_, "dwunw_pool", or_default(options_.pool_bytes, 8u << 20) / 8) &&
                       set_size(object_, "dwunw_mappings", or_default(options_.mappings, 16384)) &&
                       set_size(object_, "dwunw_processes", processes) && set_size(object_, "dwunw_slots", processes) &&
                       set_size(object_, "dwunw_sent", or_default(options_.stack_ids, 32768)) &&
                       set_size(object_, "dwunw_events", or_default(options_.ring_bytes, 4u << 20)) &&
                       set_size(object_, "dwunw_threads", off ? 1 : threads);
    if (!sized)
        return DWUNW_ERR_INVALID_ARGUMENT;
    // The kernel may not know this kind of map, so it must not be created.
    bpf_map *unused = bpf_object__find_map_by_name(object_, features_.task_storage ? "dwunw_threads" : "dwunw_tasks");
    if (unused == nullptr || bpf_map__set_autocreate(unused, false) != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    if (bpf_object__find_map_by_name(object_, "dwunw_calls") != nullptr) { // dwunw_calls.bpf.h
        unused = bpf_object__find_map_by_name(object_, features_.task_storage ? "dwunw_thread_calls" : "dwunw_calls");
        if (!set_size(object_, "dwunw_thread_calls", threads) || bpf_map__set_autocreate(unused, false) != 0)
            return DWUNW_ERR_INVALID_ARGUMENT;
    }
    for (const char *name : {"dwunw_on_linker", "dwunw_on_exec", "dwunw_on_exit"}) {
        bpf_program *program = bpf_object__find_program_by_name(object_, name);
        if (program == nullptr)
            return DWUNW_ERR_INVALID_ARGUMENT;
        bpf_program__set_autoattach(program, false);
        if (off)
            bpf_program__set_autoload(program, false);
    }
    linker_probe_ = LinkerProbe::prepare(bpf_object__find_program_by_name(object_, "dwunw_on_linker"));
    return linker_probe_ ? DWUNW_OK : DWUNW_ERR_INVALID_ARGUMENT;
}

dwunw_status Session::start() {
    if (started() || (options_.flags & DWUNW_BPF_OFF) != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    refused_ = find_other_caller(object_);
    if (!refused_.empty())
        return DWUNW_ERR_INVALID_ARGUMENT;
    if (auto status = maps_.open(object_); !status)
        return status.status();
    for (const auto &[name, tracepoint] :
         {std::pair{"dwunw_on_exec", "sched_process_exec"}, std::pair{"dwunw_on_exit", "sched_process_exit"}}) {
        const bpf_program *program = bpf_object__find_program_by_name(object_, name);
        Link link(bpf_program__attach_raw_tracepoint(program, tracepoint));
        if (link == nullptr)
            return DWUNW_ERR_BPF;
        links_.push_back(std::move(link));
    }
    ring_.reset(ring_buffer__new(maps_.events_fd, on_record, this, nullptr));
    if (ring_ == nullptr)
        return DWUNW_ERR_BPF;
    frames_.resize(kMaxFrames);
    const bool watch = (options_.flags & DWUNW_BPF_NO_LINKER_PROBE) == 0;
    publisher_.emplace(context_, maps_, watch ? linker_probe_ : std::nullopt, or_default(options_.first_generation, 1));
    return DWUNW_OK;
}

int Session::epoll_fd() const { return ring_ != nullptr ? ring_buffer__epoll_fd(ring_.get()) : -1; }

dwunw_status Session::poll(int timeout_ms, size_t *taken) {
    constexpr uint64_t kMillisecond = 1'000'000;
    poll_budget_ = {};
    const uint64_t now = now_ns();
    publisher_->watch_maps();
    if (const uint64_t due = publisher_->look_again(now); due != 0) {
        const int left = due > now ? static_cast<int>(std::min<uint64_t>((due - now) / kMillisecond + 1, 1000)) : 0;
        timeout_ms = timeout_ms < 0 ? left : std::min(timeout_ms, left);
    }
    const int result = ring_buffer__poll(ring_.get(), timeout_ms);
    if (taken != nullptr)
        *taken = poll_budget_.taken();
    if (!poll_budget_.full())
        publisher_->settled(now);
    publisher_->look_again(now_ns());
    if (result < 0 && !poll_budget_.full()) {
        errno = -result;
        return DWUNW_ERR_BPF;
    }
    return DWUNW_OK;
}

int Session::on_record(void *session, void *data, size_t size) {
    auto &self = *static_cast<Session *>(session);
    try {
        self.take(data, size);
    } catch (const std::bad_alloc &) {
        ++self.lost_to_memory_;
    }
    return self.poll_budget_.add(now_ns()) ? -ECANCELED : 0;
}

void Session::take(const void *data, size_t size) {
    dwunw_bpf_event head{};
    if (size < sizeof(head)) {
        ++malformed_;
        return;
    }
    std::memcpy(&head, data, sizeof(head));
    switch (head.type) {
    case DWUNW_BPF_EVENT_STACK:
        take_stack(data, size);
        return;
    case DWUNW_BPF_EVENT_WALK:
        take_walk(data, size);
        return;
    case DWUNW_BPF_EVENT_PROCESS:
        take_process(data, size);
        return;
    case DWUNW_BPF_EVENT_EXIT:
        publisher_->exited(static_cast<int32_t>(head.tgid));
        return;
    default:
        ++malformed_;
        return;
    }
}

void Session::take_stack(const void *data, size_t size) {
    constexpr size_t kHead = offsetof(dwunw_stack_event, frames);
    const auto &event = *static_cast<const dwunw_stack_event *>(data);
    if (size < kHead || event.count > DWUNW_BPF_MAX_FRAMES || size < kHead + event.count * sizeof(uint64_t)) {
        ++malformed_;
        return;
    }
    stack_store_.touch(event.id);
    const auto layout = publisher_->layout(event.layout);
    if (layout == nullptr) {
        ++malformed_;
        return;
    }
    if (!stack_store_.add(event.id, static_cast<int32_t>(event.head.tgid), *layout, {event.frames, event.count}))
        ++collisions_;
}

bool Session::is_of_the_moment(const dwunw_walk_event &event, Publisher::TrackedProcess &tracked) {
    const auto read_as_published = [&] {
        return tracked.layout != nullptr && tracked.process->impl->map_generation() == tracked.published.map_generation;
    };
    const auto &published = tracked.published;
    const auto map_is_valid = [&](bool later) {
        if (!read_as_published())
            return false;
        if (event.layout != 0)
            return event.layout == tracked.layout->number();
        return published.is_of(event.changes, event.exec_pages, later);
    };
    if (map_is_valid(false))
        return true;
    // Earlier changes stay unknown. But a change that came after the published map can be checked.
    if (event.layout == 0 && event.changes < published.changes && read_as_published())
        return false;
    return publisher_->publish_in_time(tracked) == DWUNW_OK && map_is_valid(true);
}

struct Session::Record {
    const dwunw_walk_event &event;
    Slice slice;
    dwunw_regset regs{};

    explicit Record(const dwunw_walk_event &from) : event(from), slice(from) {
        uint64_t pt_regs[DWUNW_BPF_PT_REGS];
        std::memcpy(pt_regs, event.pt_regs, sizeof(pt_regs));
        dwunw_regset_from_x86_64_pt_regs(&regs, pt_regs);
    }
    std::span<const dwunw_pending_return> pending() const {
        static_assert(sizeof(dwunw_bpf_pending) == sizeof(dwunw_pending_return));
        return {reinterpret_cast<const dwunw_pending_return *>(event.pending), event.pending_count};
    }
};

// Walks with the current map, if that is the map of the moment; nullopt: it is not, or it is not certain.
std::optional<Session::Walked> Session::walk_now(const Record &record, Publisher::TrackedProcess &tracked) {
    if (!is_of_the_moment(record.event, tracked))
        return std::nullopt;
    Slice slice = record.slice;
    const auto pending = record.pending();
    const dwunw_unwind_request request = {
        .size = sizeof(request),
        .options = 0,
        .process = tracked.process.get(),
        .regs = &record.regs,
        .stack_addr = slice.start,
        .stack = slice.bytes,
        .stack_size = slice.contiguous(),
        .read_memory = slice.contiguous() < slice.size ? Slice::read : nullptr,
        .memory_arg = &slice,
        .pending_returns = pending.data(),
        .pending_return_count = pending.size(),
        .frames = frames_.data(),
        .max_frames = frames_.size(),
    };
    Walked walked;
    walked.status = dwunw_capture(context_, &request, &walked.count);
    // The capture may have read the map again, so check again.
    if (!is_of_the_moment(record.event, tracked))
        return std::nullopt;
    return walked;
}

// Walks with the map of the moment, by call-frame information only; nullopt: that map is not known.
std::optional<Session::Walked> Session::walk_then(const Record &record, Publisher::TrackedProcess &tracked) {
    auto moment = publisher_->moment(tracked, record.event.time_ns, record.event.execs, now_ns());
    const arch::Arch *arch = arch::find_by_id(record.regs.arch);
    if (!moment || arch == nullptr)
        return std::nullopt;
    Slice slice = record.slice;
    const unwind::Registers registers(std::span(record.regs.regs).first<dwarf::kTrackedRegisters>(), record.regs.valid);
    unwind::StackMemory memory(RunAddr(slice.start), {slice.bytes, slice.contiguous()});
    memory.add_reader({slice.contiguous() < slice.size ? Slice::read : nullptr, &slice});
    const unwind::WalkResult result = unwind::walk({
        .space = *moment,
        .arch = *arch,
        .registers = registers,
        .memory = memory,
        .pending_returns = record.pending(),
        .frames = frames_,
        .cfi_only = true,
    });
    return Walked{result.status, result.written};
}

void Session::take_walk(const void *data, size_t size) {
    constexpr size_t kHead = sizeof(dwunw_walk_event);
    const auto &event = *static_cast<const dwunw_walk_event *>(data);
    if (size < kHead || event.stack_len > size - kHead || event.pending_count > DWUNW_BPF_PENDING_MAX) {
        ++malformed_;
        return;
    }
    stack_store_.touch(event.id);
    if (stack_store_.contains(event.id))
        return;
    const auto pid = static_cast<int32_t>(event.head.tgid);
    const Record record(event);
    const auto begin = [&] {
        frames_[0] = {};
        frames_[0].pc = record.regs.regs[16];
        frames_[0].sp = record.regs.regs[7];
        frames_[0].flags = DWUNW_FRAME_FLAG_EXACT_PC;
    };
    begin();
    Walked walked{DWUNW_ERR_NO_PROCESS, 1};
    Publisher::TrackedProcess *tracked = publisher_->find(pid);
    if (tracked == nullptr && (options_.flags & DWUNW_BPF_ADD_UNKNOWN) != 0) {
        walked.status = publisher_->add(pid);
        tracked = publisher_->find(pid);
    }
    if (tracked != nullptr) {
        // If the map had changed already, the map of the moment is known earlier than the answer whether the current
        // map is right.
        const bool then_first = event.layout == 0;
        std::optional<Walked> then = then_first ? walk_then(record, *tracked) : std::nullopt;
        std::optional<Walked> now;
        if (!then || then->status != DWUNW_OK)
            now = walk_now(record, *tracked);
        if (!now && (!then_first || (then && then->status != DWUNW_OK)))
            then = walk_then(record, *tracked); // walk again: frames_ may hold the other walk's frames
        if (!now && !then)
            begin();
        user_walks_then_ += !now && then;
        walked = now ? *now : then.value_or(Walked{});
    }
    user_walks_complete_ += walked.status == DWUNW_OK;
    user_walks_stale_ += walked.status == DWUNW_ERR_MODULE_CHANGED;
    if (!stack_store_.add(event.id, pid, walked.status, event.reason, {frames_.data(), walked.count}))
        ++collisions_;
}

void Session::take_process(const void *data, size_t size) {
    const auto &event = *static_cast<const dwunw_process_event *>(data);
    if (size < sizeof(event)) {
        ++malformed_;
        return;
    }
    const auto pid = static_cast<int32_t>(event.head.tgid);
    Publisher::TrackedProcess *tracked = publisher_->find(pid);
    if (tracked == nullptr) {
        if ((options_.flags & DWUNW_BPF_ADD_UNKNOWN) != 0)
            (void)publisher_->add(pid); // if it fails, its stacks say that the process is not known
        return;
    }
    if (tracked->published.changes == publisher_->changes(*tracked) &&
        tracked->published.exec_pages == event.exec_pages) {
        publisher_->rearm(*tracked);
        return;
    }
    publisher_->asked(pid, event.exec_pages);
    publisher_->look_again(now_ns());
}

// Two lists are needed. An id that the first list lacks is removed from the kernel's ids that were sent. A program that
// gets the id after that has it sent again. A program that got it before has stored it by the time of the second list.
dwunw_status Session::retain(std::span<const uint64_t> ids) {
    std::vector<uint64_t> needed(ids.begin(), ids.end());
    std::ranges::sort(needed);
    stack_store_.retain([&](uint64_t id) { return std::ranges::binary_search(needed, id); },
                        [&](uint64_t id) { bpf_map_delete_elem(maps_.sent_fd, &id); }); // it may be absent
    // After this, every program that found an id there has ended.
    return maps_.grace.wait() ? DWUNW_OK : DWUNW_ERR_BPF;
}

void Session::read_counters(dwunw_bpf_counters &out) const {
    std::array<uint64_t, DWUNW_BPF_COUNTERS> counts{};
    if (started() && maps_.read_counters(counts)) {
        out.walks = counts[DWUNW_BPF_WALKS];
        std::copy_n(counts.begin(), DWUNW_BPF_REASONS, out.reasons);
        out.frames = counts[DWUNW_BPF_FRAMES];
        out.cache_misses = counts[DWUNW_BPF_CACHE_MISSES];
        out.trampoline_frames = counts[DWUNW_BPF_TRAMPOLINE_FRAMES];
        out.new_stacks = counts[DWUNW_BPF_NEW_STACKS];
        out.user_walks = counts[DWUNW_BPF_SENT_WALKS];
        out.deduplicated = counts[DWUNW_BPF_DEDUPLICATED];
        out.failed_inserts = counts[DWUNW_BPF_FAILED_INSERTS];
        out.process_requests = counts[DWUNW_BPF_NEED_PROCESS];
        out.requests_dropped = counts[DWUNW_BPF_NEED_DROPPED];
        out.linker_events = counts[DWUNW_BPF_LINKER_EVENTS];
        out.lost_calls = counts[DWUNW_BPF_LOST_CALLS];
        out.other_stack_calls = counts[DWUNW_BPF_OTHER_STACK_CALLS];
        out.abandoned_calls = counts[DWUNW_BPF_ABANDONED_CALLS];
    }
    out.user_walks_complete = user_walks_complete_;
    out.user_walks_stale = user_walks_stale_;
    out.user_walks_then = user_walks_then_;
    out.kept_bytes = stack_store_.bytes();
    out.distinct_stacks = stack_store_.stacks();
    out.forgotten = stack_store_.forgotten();
    out.stacks = stack_store_.size();
    out.id_collisions = collisions_;
    out.records_malformed = malformed_;
    out.lost_to_memory = lost_to_memory_ + stack_store_.without_room();
    if (!started())
        return;
    const TablePool &pool = publisher_->pool();
    out.publications = publisher_->publications();
    out.modules = pool.modules();
    out.modules_without_room = pool.without_room();
    out.rules_left_to_user = pool.rules_left_to_user();
    out.pool_bytes = pool.bytes();
    out.pool_bytes_used = pool.bytes_used();
    out.mappings_used = publisher_->mappings_used();
    out.map_records = publisher_->map_watch().seen();
    out.map_record_losses = publisher_->map_watch().losses();
    const bpf_map *map = nullptr;
    bpf_object__for_each_map(map, object_) {
        if (std::strncmp(bpf_map__name(map), "dwunw_", 6) == 0 && bpf_map__fd(map) >= 0)
            out.memory_bytes += map_memory(bpf_map__fd(map));
    }
}

std::string Session::describe() const {
    const auto choice = [](bool has, bool off, const char *with, const char *without) {
        return std::string(has ? with : without) +
               (has   ? ""
                : off ? " (switched off)"
                      : " (the kernel lacks the better form)") +
               "\n";
    };
    std::string text;
    text += "frame loop: " + choice(features_.loop, features_.loop_off, "bpf_loop, 512 frames",
                                    "global function in a bounded loop, 128 frames");
    if (!features_.jit)
        text += "JIT: off (net.core.bpf_jit_enable); bpf_loop and bpf_find_vma need it\n";
    text += "state of a walk: " +
            choice(features_.task_storage, features_.task_storage_off, "task storage", "hash by thread");
    if (!refused_.empty())
        text += "refused: dwunw_get_stackid needs a pt_regs, but its caller is program " + refused_ + "\n";
    if (pid_namespace_ != 0)
        text += "process numbers: those of pid namespace " + std::to_string(pid_namespace_) + "\n";
    if (started())
        text += "dynamic linker: watched in " + std::to_string(publisher_->watched_linkers()) + " of " +
                std::to_string(publisher_->size()) + " processes\n";
    return text;
}

} // namespace dwunw::bpf
