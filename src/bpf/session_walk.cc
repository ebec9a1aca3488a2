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

#include "arch/kernel_registers.h"
#include "base/clock.h"
#include "unwind/walk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace dwunw::bpf {
namespace {

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
    dwunw_regset regs;

    explicit Record(const dwunw_walk_event &from) : event(from), slice(from) {
        std::array<uint64_t, DWUNW_BPF_PT_REGS> words;
        static_assert(sizeof(words) == sizeof(event.pt_regs) && words.size() == arch::selected::kPtRegs.size());
        std::memcpy(words.data(), event.pt_regs, sizeof(words));
        regs = arch::regset_of(words);
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
    if (!moment)
        return std::nullopt;
    Slice slice = record.slice;
    const unwind::Registers registers(std::span(record.regs.regs).first<dwarf::kTrackedRegisters>(), record.regs.valid);
    unwind::StackMemory memory(RunAddr(slice.start), {slice.bytes, slice.contiguous()});
    memory.add_reader({slice.contiguous() < slice.size ? Slice::read : nullptr, &slice});
    const unwind::WalkResult result = unwind::walk({
        .space = *moment,
        .arch = arch::selected::kArch,
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
        frames_[0].pc = record.regs.regs[arch::selected::kProgramCounter];
        frames_[0].sp = record.regs.regs[arch::selected::kStackPointer];
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

} // namespace dwunw::bpf
