// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/map_history.h"

#include <algorithm>
#include <iterator>

namespace dwunw::bpf {

// Splits the range across `at`.
void MapHistory::split(RunAddr at) {
    auto after = ranges_.upper_bound(at);
    if (after == ranges_.begin())
        return;
    auto &[start, range] = *std::prev(after);
    if (start == at || range.end <= at)
        return;
    size_ += range.came.size();
    ranges_.emplace_hint(after, at, Range{range.end, range.came});
    range.end = at;
}

void MapHistory::add(const std::shared_ptr<Mapped> &mapped) {
    const RunAddr start = mapped->mapping.start;
    const RunAddr end = mapped->mapping.end;
    if (start >= end || mapped->time <= known_since_)
        return;
    split(start);
    split(end);
    RunAddr at = start;
    while (at < end) {
        auto it = ranges_.lower_bound(at);
        if (it == ranges_.end() || it->first > at) {
            const RunAddr gap_end = it == ranges_.end() ? end : std::min(it->first, end);
            it = ranges_.emplace_hint(it, at, Range{gap_end, {}});
        }
        auto &came = it->second.came;
        const auto later = std::ranges::upper_bound(came, mapped->time, {}, [](const auto &m) { return m->time; });
        came.insert(later, mapped);
        ++size_;
        at = it->second.end;
    }
    while (size_ > kMost)
        drop_oldest();
}

void MapHistory::add_exec(uint64_t time) {
    if (time <= known_since_)
        return;
    execs_.insert(std::ranges::upper_bound(execs_, time), time);
    if (execs_.size() <= kMostExecs)
        return;
    known_since_ = std::max(known_since_, execs_[kMostExecs / 2]);
    forget_to(known_since_);
}

std::optional<uint64_t> MapHistory::executed(uint64_t time) const {
    const auto later = std::ranges::upper_bound(execs_, time);
    return later != execs_.begin() ? std::optional(*std::prev(later)) : std::nullopt;
}

void MapHistory::lose(uint64_t time) {
    ranges_.clear();
    execs_.clear();
    size_ = 0;
    known_since_ = std::max(known_since_, time);
}

// Drops half of the known time.
void MapHistory::drop_oldest() {
    uint64_t oldest = UINT64_MAX;
    uint64_t newest = 0;
    for (const auto &[start, range] : ranges_) {
        oldest = std::min(oldest, range.came.front()->time);
        newest = std::max(newest, range.came.back()->time);
    }
    const uint64_t until = oldest + (newest - oldest) / 2;
    known_since_ = std::max(known_since_, until);
    forget_to(until);
}

void MapHistory::forget_before(uint64_t time) {
    if (time != 0)
        forget_to(time - 1);
}

// Forgets everything up to `time`.
void MapHistory::forget_to(uint64_t time) {
    std::erase_if(execs_, [&](uint64_t exec) { return exec <= time; });
    for (auto it = ranges_.begin(); it != ranges_.end();) {
        auto &came = it->second.came;
        size_ -= std::erase_if(came, [&](const auto &mapped) { return mapped->time <= time; });
        it = came.empty() ? ranges_.erase(it) : std::next(it);
    }
}

MapHistory::Found MapHistory::find(RunAddr address, uint64_t since, uint64_t until) const {
    const auto after = ranges_.upper_bound(address);
    Found found{nullptr, RunAddr(0), after == ranges_.end() ? RunAddr(UINT64_MAX) : after->first};
    if (after == ranges_.begin())
        return found;
    const auto &[start, range] = *std::prev(after);
    if (range.end <= address) {
        found.start = range.end;
        return found;
    }
    found.start = start;
    found.end = range.end;
    const auto later = std::ranges::upper_bound(range.came, until, {}, [](const auto &m) { return m->time; });
    if (later != range.came.begin() && (*std::prev(later))->time >= since)
        found.mapped = *std::prev(later);
    return found;
}

} // namespace dwunw::bpf
