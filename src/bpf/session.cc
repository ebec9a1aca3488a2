// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a session does for its loader: it opens the maps, attaches the programs, and takes the records in. The stacks
// that the kernel could not walk are walked in session_walk.cc.
#include "bpf/session.h"

#include "base/clock.h"
#include "bpf/other_callers.h"
#include "bpf/pid_namespace.h"

#include <bpf/libbpf.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>

namespace dwunw::bpf {
namespace {

constexpr size_t kMaxFrames = 1024; // of a stack that user space walks

uint32_t or_default(uint32_t value, uint32_t otherwise) { return value != 0 ? value : otherwise; }

bool set_size(bpf_object *object, const char *name, uint32_t entries) {
    bpf_map *map = bpf_object__find_map_by_name(object, name);
    return map != nullptr && bpf_map__set_max_entries(map, entries) == 0;
}

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
    auto maps = std::make_unique<BpfMaps>();
    if (auto status = maps->open(object_); !status)
        return status.status();
    for (const auto &[name, tracepoint] :
         {std::pair{"dwunw_on_exec", "sched_process_exec"}, std::pair{"dwunw_on_exit", "sched_process_exit"}}) {
        const bpf_program *program = bpf_object__find_program_by_name(object_, name);
        Link link(bpf_program__attach_raw_tracepoint(program, tracepoint));
        if (link == nullptr)
            return DWUNW_ERR_BPF;
        links_.push_back(std::move(link));
    }
    ring_.reset(ring_buffer__new(maps->events_fd(), on_record, this, nullptr));
    if (ring_ == nullptr)
        return DWUNW_ERR_BPF;
    begin(std::move(maps));
    return DWUNW_OK;
}

void Session::begin(std::unique_ptr<BpfMaps> maps) {
    maps_ = std::move(maps);
    frames_.resize(kMaxFrames);
    const bool watch = (options_.flags & DWUNW_BPF_NO_LINKER_PROBE) == 0;
    publisher_.emplace(context_, *maps_, watch ? linker_probe_ : std::nullopt,
                       or_default(options_.first_generation, 1));
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
                        [&](uint64_t id) { maps_->forget_sent(id); });
    // After this, every program that found an id there has ended.
    return maps_->wait_for_programs() ? DWUNW_OK : DWUNW_ERR_BPF;
}

void Session::read_counters(dwunw_bpf_counters &out) const {
    std::array<uint64_t, DWUNW_BPF_COUNTERS> counts{};
    if (started() && maps_->read_counters(counts)) {
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
    out.memory_bytes = maps_->memory_bytes();
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
