// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/mappings.h"

#include <algorithm>

namespace dwunw_tool::memleak {
namespace {

constexpr uint64_t kPage = 4096;

uint64_t end_of(uint64_t address, uint64_t length) {
    const uint64_t last = UINT64_MAX - kPage;
    if (address > last || length > last - address)
        return last / kPage * kPage;
    return (address + length + kPage - 1) / kPage * kPage;
}

} // namespace

// Takes out all that lies in [start, end), and returns it.
std::vector<Mapping> Mappings::cut(Pieces &pieces, uint64_t start, uint64_t end) {
    std::vector<Mapping> taken;
    auto at = pieces.lower_bound(start);
    if (at != pieces.begin() && std::prev(at)->second.end > start)
        --at;
    while (at != pieces.end() && at->second.start < end) {
        const Mapping whole = at->second;
        at = pieces.erase(at);
        Mapping inner = whole;
        inner.start = std::max(whole.start, start);
        inner.end = std::min(whole.end, end);
        taken.push_back(inner);
        if (whole.start < start) {
            Mapping left = whole;
            left.end = start;
            pieces.emplace(left.start, left);
        }
        if (whole.end > end) {
            Mapping right = whole;
            right.start = end;
            at = pieces.emplace(right.start, right).first;
        }
    }
    return taken;
}

void Mappings::map(uint32_t process, uint64_t address, uint64_t length, int64_t stack, uint64_t born,
                   bool is_thread_stack) {
    const uint64_t end = end_of(address, length);
    if (end <= address)
        return;
    Pieces &pieces = processes_[process];
    cut(pieces, address, end);
    pieces.emplace(address, Mapping{address, end, stack, born, is_thread_stack});
}

void Mappings::unmap(uint32_t process, uint32_t tid, uint64_t address, uint64_t length) {
    const auto found = processes_.find(process);
    if (found == processes_.end()) {
        unmapped_.erase(tid);
        return;
    }
    unmapped_[tid] = {process, address, cut(found->second, address, end_of(address, length))};
}

void Mappings::unmap_failed(uint32_t process, uint32_t tid) {
    const auto found = unmapped_.find(tid);
    if (found == unmapped_.end() || found->second.process != process)
        return;
    for (const Mapping &piece : found->second.pieces)
        processes_[process].emplace(piece.start, piece);
    unmapped_.erase(found);
}

void Mappings::remap(uint32_t process, uint32_t tid, uint64_t old, uint64_t old_length, uint64_t address,
                     uint64_t length, int64_t stack, uint64_t born) {
    Pieces &pieces = processes_[process];
    std::vector<Mapping> taken;
    if (const auto found = unmapped_.find(tid); found != unmapped_.end()) {
        if (old_length > 0 && found->second.process == process && found->second.start == old)
            taken = std::move(found->second.pieces);
        unmapped_.erase(found);
    }
    const uint64_t end = end_of(address, length);
    if (end <= address)
        return;
    cut(pieces, address, end);
    const bool is_thread_stack = !taken.empty() && taken.front().is_thread_stack;
    if (length > old_length || taken.empty()) {
        pieces.emplace(address, Mapping{address, end, stack, born, is_thread_stack});
        return;
    }
    // The same pieces at another address; a smaller length has cut the last ones off.
    for (Mapping piece : taken) {
        piece.start = piece.start - old + address;
        piece.end = std::min(piece.end - old + address, end);
        if (piece.start < piece.end)
            pieces.emplace(piece.start, piece);
    }
}

void Mappings::drop(uint32_t process) {
    processes_.erase(process);
    std::erase_if(unmapped_, [&](const auto &entry) { return entry.second.process == process; });
}

void Mappings::each(const std::function<void(uint32_t, const Mapping &)> &visit) const {
    for (const auto &[process, pieces] : processes_)
        for (const auto &[start, mapping] : pieces)
            visit(process, mapping);
}

size_t Mappings::count() const {
    size_t count = 0;
    for (const auto &[process, pieces] : processes_)
        count += pieces.size();
    return count;
}

} // namespace dwunw_tool::memleak
