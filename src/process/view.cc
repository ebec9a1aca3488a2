// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One walk's look at a process: Pin holds the newest map for the walk, and View answers from it.
//
//     View::find(address) ─► the mapping in the pinned map ─► verified within kVerifyAfter?  yes ─► its module's rules
//                                                                      │ no
//                             still the same mapping? ◄─ ask the kernel for this one mapping
//                             yes ─► its module's rules      no ─► read the map again, within RefreshBudget
//
// Proved by tests/unit/process_process_test.
#include "process/process.h"

#include "base/clock.h"

#include <sched.h>

namespace dwunw::process {
namespace {

using unwind::CodeKind;
using unwind::CodeLocation;

// Whether a file's failure may be due to the map: the mapping was replaced or split after the map was read.
bool may_be_stale(dwunw_status status) {
    return status == DWUNW_ERR_MODULE_CHANGED || status == DWUNW_ERR_NO_FILE || status == DWUNW_ERR_MEMORY_UNREADABLE;
}

} // namespace

Pin::Pin(const Process &process) : process_(process) {
    constexpr size_t kAttempts = 4;
    const auto first = static_cast<unsigned>(::sched_getcpu());
    for (size_t i = 0; i < kAttempts; ++i) {
        const size_t number = (first + i) % Process::kSeats;
        Seat &seat = process_.seats_[number];
        if (seat.taken.load(std::memory_order_relaxed) || seat.taken.exchange(true, std::memory_order_acquire))
            continue;
        seat_ = number;
        break;
    }
    renew();
}

Pin::~Pin() {
    if (seat_ == Process::kSeats)
        return;
    Seat &seat = process_.seats_[seat_];
    if (seat.snapshot->generation != process_.generation_.load(std::memory_order_relaxed))
        seat.snapshot = nullptr;
    seat.taken.store(false, std::memory_order_release);
}

void Pin::renew() {
    std::shared_ptr<const Snapshot> &held = seat_ != Process::kSeats ? process_.seats_[seat_].snapshot : own_;
    if (held == nullptr || held->generation != process_.generation_.load(std::memory_order_acquire)) {
        const std::lock_guard lock(process_.publish_mutex_);
        held = process_.published_;
    }
    snapshot_ = held.get();
}

// The coarse clock may be behind by some milliseconds. Every walk reads it; it costs next to nothing.
View::View(Process &process) : process_(process), snapshot_(process), now_(now_ns(CLOCK_MONOTONIC_COARSE)) {}

bool View::verified_lately(const Snapshot::Slot &slot) const {
    // The coarse clock may be behind the exact clock.
    const uint64_t verified = slot.verified_at.load(std::memory_order_relaxed);
    return now_ <= verified || now_ - verified <= Process::kVerifyAfter;
}

std::optional<unwind::PlacedModule> View::place(uint32_t number, uint64_t generation) {
    if (generation != snapshot_->generation || number >= snapshot_->maps.mappings().size())
        return std::nullopt;
    const Snapshot::Slot &slot = snapshot_->slots[number];
    if (!slot.bound.load(std::memory_order_acquire) || slot.binding.kind != CodeKind::kModule)
        return std::nullopt;
    if (!process_.fixed_map_ && !process_.gone_.load(std::memory_order_relaxed) && !verified_lately(slot))
        return std::nullopt;
    return unwind::PlacedModule{slot.binding.module, slot.binding.bias};
}

bool View::is_warm_code(RunAddr address, uint64_t generation) {
    const Mapping *mapping = snapshot_->maps.find(address);
    return mapping != nullptr && mapping->executable &&
           place(static_cast<uint32_t>(snapshot_->maps.index_of(*mapping)), generation).has_value();
}

View::Trust View::trust(RunAddr address, const Answer &answer) const {
    if (process_.fixed_map_ || process_.gone_.load(std::memory_order_relaxed))
        return Trust::kGood;
    if (answer.mapping == nullptr || answer.binding.kind == CodeKind::kUnmapped)
        return Trust::kUnknown;
    Snapshot::Slot &slot = snapshot_->slots[snapshot_->maps.index_of(*answer.mapping)];
    if (!verified_lately(slot)) {
        const uint64_t verified = slot.verified_at.load(std::memory_order_relaxed);
        const MappingQuery query = query_mapping(snapshot_->live->maps_fd(), address);
        if (query.outcome == MappingQuery::Outcome::kUnsupported) {
            if (now_ - verified > Process::kRereadAfter)
                return Trust::kOld;
        } else if (query.outcome != MappingQuery::Outcome::kFound || !same_placement(query.mapping, *answer.mapping)) {
            return Trust::kReplaced;
        }
        if (answer.binding.kind == CodeKind::kModule && !answer.binding.module->file->unchanged())
            return Trust::kReplaced;
        if (answer.binding.moved != 0 &&
            !process_.is_still_moved_code(*snapshot_, *answer.mapping, answer.binding, address)) {
            slot.refuted.store(true, std::memory_order_relaxed);
            return Trust::kReplaced;
        }
        if (query.outcome == MappingQuery::Outcome::kFound)
            slot.verified_at.store(now_, std::memory_order_relaxed);
    }
    if (answer.binding.kind == CodeKind::kUnusableModule && may_be_stale(answer.binding.status))
        return Trust::kUnknown;
    return Trust::kGood;
}

View::Answer View::look(RunAddr address, bool code) {
    Answer answer;
    for (bool again = false;; again = true) {
        answer = {};
        answer.mapping = snapshot_->maps.find(address);
        if (answer.mapping != nullptr && (answer.mapping->executable || !code))
            answer.binding = process_.bind(*snapshot_, snapshot_->maps.index_of(*answer.mapping));
        const Trust trusted = trust(address, answer);
        if (trusted == Trust::kGood)
            return answer;
        const auto reason = trusted == Trust::kUnknown ? Process::Reason::kUnknown : Process::Reason::kReplaced;
        if (!again && process_.refresh_because(reason, address, *snapshot_)) {
            snapshot_.renew();
            continue;
        }
        // The snapshot is wrong here, and the budget forbids another reading; or the reading failed.
        if (trusted == Trust::kReplaced)
            answer.binding = {CodeKind::kUnusableModule, DWUNW_ERR_MODULE_CHANGED};
        return answer;
    }
}

CodeLocation View::find(RunAddr address) {
    const Answer answer = look(address, true);
    CodeLocation location;
    location.kind = answer.binding.kind;
    location.status = answer.binding.status;
    location.module = answer.binding.module;
    location.bias = answer.binding.bias;
    if (answer.mapping != nullptr) {
        if (!answer.mapping->executable && location.kind == CodeKind::kUnmapped)
            location.status = DWUNW_ERR_NOT_EXECUTABLE;
        location.start = answer.mapping->start;
        location.end = answer.mapping->end;
    }
    if (location.kind == CodeKind::kModule) {
        location.entry = location.module->file->entry();
        location.place = static_cast<uint32_t>(snapshot_->maps.index_of(*answer.mapping));
        auto cfi = process_.store_.cfi(*location.module->file);
        if (cfi)
            location.cfi = std::move(*cfi);
        else
            location.status = cfi.error().status;
    }
    return location;
}

bool View::is_code(RunAddr address) { return snapshot_->maps.is_code(address); }

bool View::read_code(RunAddr address, std::span<uint8_t> buffer) {
    const Answer answer = look(address, true);
    if (answer.mapping == nullptr || buffer.size() > answer.mapping->end - address)
        return false;
    const Binding &binding = answer.binding;
    const auto in_file = [&] {
        return binding.module->file->source().read_exactly(binding.offset + (address - answer.mapping->start), buffer);
    };
    const auto in_memory = [&] { return snapshot_->target->read(address, buffer) == buffer.size(); };
    switch (binding.kind) {
    case CodeKind::kModule:
        return in_file();
    case CodeKind::kAnonymous:
        return in_memory();
    case CodeKind::kUnusableModule:
        // Code in a file that is not an ELF image, or code that no segment of the file covers, such as a heap image
        // behind a program. Only its bytes are known.
        if (binding.status != DWUNW_ERR_NOT_ELF && binding.status != DWUNW_ERR_ELF_MALFORMED)
            return false;
        return in_memory() || (!snapshot_->target->has_memory() && binding.module != nullptr &&
                               binding.module->file != nullptr && in_file());
    default:
        return false;
    }
}

Result<Process::ModuleAt> View::find_module(RunAddr address) {
    const Answer answer = look(address, false);
    switch (answer.binding.kind) {
    case CodeKind::kModule:
        return Process::ModuleAt{answer.binding.module, answer.binding.bias.link(address)};
    case CodeKind::kUnusableModule:
        return Error{answer.binding.status, address.value};
    default:
        return Error{DWUNW_ERR_NO_MAPPING, address.value};
    }
}

} // namespace dwunw::process
