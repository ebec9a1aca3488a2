// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/stack_store.h"

#include <algorithm>

namespace dwunw::bpf {
namespace {

constexpr uint64_t kFactor = 0x9e3779b97f4a7c15u;
constexpr size_t kFirstIds = 64;
constexpr size_t kRefusedBits = size_t{1} << 20;

// An index uses its upper half.
uint64_t mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * kFactor;
    hash ^= hash >> 32;
    hash *= kFactor;
    return hash ^ hash >> 29;
}

// Approximate memory: the object itself, its share of a vector that doubles, and its slots in indexes.
constexpr size_t cost(size_t bytes, size_t indexes) { return bytes + bytes / 2 + indexes * 12; }

} // namespace

bool StackStore::add(uint64_t id, int32_t pid, const Layout &layout, std::span<const __u64> words) {
    scratch_.clear();
    for (size_t i = 0; i < words.size(); ++i)
        scratch_.push_back(named(layout, words[i], i));
    return add(id, pid, DWUNW_OK, 0, scratch_);
}

bool StackStore::add(uint64_t id, int32_t pid, dwunw_status status, uint32_t reason,
                     std::span<const dwunw_frame> frames) {
    if (const Alias *known = find(id))
        return known->stack == kNoRoom || equal(stack_list_[known->stack], pid, status, frames, false);
    if (!room_for_id()) {
        refuse(id);
        return true;
    }
    const uint32_t stack = take_stack(id, pid, status, frames);
    without_room_ += stack == kNoRoom;
    insert({id, stack, reason & 0x7fffffffu, 0});
    return true;
}

// Hashes the parts of frames that make them different. For a reader, the way a frame was found makes no difference.
uint64_t StackStore::hash(const dwunw_frame &frame, bool exactly) const {
    uint64_t result = mix(seed_, frame.pc);
    result = mix(result, reinterpret_cast<uintptr_t>(frame.module));
    result = mix(result, frame.module_offset);
    return mix(result, exactly ? uint64_t{frame.flags} << 8 | frame.source : frame.flags & DWUNW_FRAME_FLAG_EXACT_PC);
}

uint64_t StackStore::hash(int32_t pid, dwunw_status status, std::span<const dwunw_frame> frames, bool exactly) const {
    uint64_t result = mix(seed_, static_cast<uint64_t>(pid) << 8 | static_cast<uint64_t>(status));
    for (const dwunw_frame &frame : frames)
        result = mix(result, hash(frame, exactly));
    return result;
}

bool StackStore::equal(const Stack &stack, int32_t pid, dwunw_status status, std::span<const dwunw_frame> frames,
                       bool exactly) const {
    if (stack.pid != pid || stack.status != static_cast<uint32_t>(status) || stack.count != frames.size())
        return false;
    for (size_t i = 0; i < frames.size(); ++i) {
        const dwunw_frame a = frame(stack.frames[i]);
        const dwunw_frame &b = frames[i];
        const uint32_t flags = exactly ? ~0u : uint32_t{DWUNW_FRAME_FLAG_EXACT_PC};
        if (a.pc != b.pc || a.module != b.module || a.module_offset != b.module_offset ||
            ((a.flags ^ b.flags) & flags) != 0 || (exactly && a.source != b.source))
            return false;
    }
    return true;
}

dwunw_frame StackStore::frame(uint32_t number) const {
    const Frame &kept = frame_list_[number];
    const unwind::PlacedModule &place = places_[kept.place];
    dwunw_frame result{};
    result.pc = kept.pc;
    result.module = place.module;
    result.module_offset = kept.pc - place.bias.value;
    result.flags = kept.flags;
    result.source = kept.source;
    return result;
}

dwunw_frame StackStore::named(const Layout &layout, uint64_t word, size_t index) {
    const bool exact = (word & DWUNW_BPF_FRAME_EXACT) != 0;
    dwunw_frame result{};
    result.pc = word & DWUNW_BPF_FRAME_PC;
    if (exact)
        result.flags |= DWUNW_FRAME_FLAG_EXACT_PC;
    if ((word & DWUNW_BPF_FRAME_SIGNAL) != 0)
        result.flags |= DWUNW_FRAME_FLAG_SIGNAL;
    if (index == 0)
        result.source = DWUNW_SOURCE_REGISTERS;
    else if ((word & DWUNW_BPF_FRAME_TRAMPOLINE) != 0)
        result.source = DWUNW_SOURCE_TRAMPOLINE;
    else
        result.source = exact ? DWUNW_SOURCE_SIGNAL : DWUNW_SOURCE_CFI;
    const auto place = layout.find(RunAddr(result.pc) - (exact ? 0 : 1));
    if (place && place->module != nullptr) {
        result.module = place->module;
        result.module_offset = place->bias.link(RunAddr(result.pc)).value;
    }
    return result;
}

uint32_t StackStore::find_frame(const dwunw_frame &wanted) const {
    return frame_index_.find(hash(wanted, true), [&](uint32_t number) {
        const dwunw_frame known = frame(number);
        return known.pc == wanted.pc && known.module == wanted.module && known.module_offset == wanted.module_offset &&
               known.flags == wanted.flags && known.source == wanted.source;
    });
}

uint32_t StackStore::take_frame(const dwunw_frame &frame) {
    if (const uint32_t known = find_frame(frame); known != NumberIndex::kNone)
        return known;
    const uint64_t bias = frame.pc - frame.module_offset;
    const uint64_t place_hash = mix(mix(seed_, reinterpret_cast<uintptr_t>(frame.module)), bias);
    uint32_t place = place_index_.find(place_hash, [&](uint32_t number) {
        return places_[number].module == frame.module && places_[number].bias.value == bias;
    });
    if (place == NumberIndex::kNone) {
        place = static_cast<uint32_t>(places_.size());
        places_.push_back({frame.module, LoadBias{bias}});
        place_index_.insert(place_hash, place);
    }
    const auto number = static_cast<uint32_t>(frame_list_.size());
    frame_list_.push_back({frame.pc, place, frame.flags & 0xffffffu, frame.source & 0xffu});
    frame_index_.insert(hash(frame, true), number);
    return number;
}

// kNoRoom: the stack is not known, and there is no room.
uint32_t StackStore::take_stack(uint64_t id, int32_t pid, dwunw_status status, std::span<const dwunw_frame> frames) {
    const uint64_t exact_hash = hash(pid, status, frames, true);
    const uint32_t known = exact_index_.find(
        exact_hash, [&](uint32_t number) { return equal(stack_list_[number], pid, status, frames, true); });
    if (known != NumberIndex::kNone)
        return known;
    size_t needed = cost(sizeof(Stack), 2) + frames.size() * sizeof(uint32_t) + 2 * sizeof(void *);
    for (const dwunw_frame &frame : frames)
        if (find_frame(frame) == NumberIndex::kNone)
            needed += cost(sizeof(Frame), 1) + cost(sizeof(unwind::PlacedModule), 1); // its own, in the worst case
    const size_t room = limit_ - limit_ / 8;
    if (bytes_ + needed > room || bytes() + needed > limit_)
        return kNoRoom;

    Stack stack;
    stack.frames = std::make_unique<uint32_t[]>(frames.size());
    stack.count = static_cast<uint32_t>(frames.size());
    stack.pid = pid;
    stack.status = static_cast<uint32_t>(status);
    std::ranges::transform(frames, stack.frames.get(), [&](const dwunw_frame &frame) { return take_frame(frame); });
    const auto number = static_cast<uint32_t>(stack_list_.size());
    const uint64_t alike_hash = hash(pid, status, frames, false);
    const uint32_t alike = alike_index_.find(
        alike_hash, [&](uint32_t other) { return equal(stack_list_[other], pid, status, frames, false); });
    stack.alike = alike != NumberIndex::kNone ? alike : number;
    stack.first_id = alike != NumberIndex::kNone ? stack_list_[alike].first_id : id;
    stack_list_.push_back(std::move(stack));
    exact_index_.insert(exact_hash, number);
    if (alike == NumberIndex::kNone)
        alike_index_.insert(alike_hash, number);
    bytes_ += needed;
    return number;
}

const StackStore::Alias *StackStore::find(uint64_t id) const {
    if (ids_.empty())
        return nullptr;
    for (size_t at = mix(seed_, id) >> 32;; ++at) {
        const Alias &alias = ids_[at & (ids_.size() - 1)];
        if (alias.id == 0)
            return nullptr;
        if (alias.id == id)
            return &alias;
    }
}

// While the table is copied to one of twice its size, both exist.
bool StackStore::room_for_id() const {
    if ((id_count_ + 1) * 4 <= ids_.size() * 3)
        return true;
    return std::max(kFirstIds, ids_.size() * 2) * sizeof(Alias) + bytes_ <= limit_;
}

void StackStore::insert(const Alias &added) {
    const auto put = [&](const Alias &alias) {
        size_t at = mix(seed_, alias.id) >> 32;
        while (ids_[at & (ids_.size() - 1)].id != 0)
            ++at;
        ids_[at & (ids_.size() - 1)] = alias;
    };
    if ((id_count_ + 1) * 4 > ids_.size() * 3) {
        std::vector<Alias> before(std::max(kFirstIds, ids_.size() * 2));
        before.swap(ids_);
        for (const Alias &alias : before)
            if (alias.id != 0)
                put(alias);
    }
    put(added);
    ++id_count_;
}

void StackStore::refuse(uint64_t id) {
    ++without_room_;
    if (refused_.empty())
        refused_.resize(kRefusedBits);
    refused_[(mix(seed_, id) >> 32) % kRefusedBits] = true;
}

void StackStore::rebuild(const std::vector<Alias> &kept) {
    // A stack stays while one of its ids does, or while it is the first of several that look alike.
    std::vector<bool> needed(stack_list_.size());
    for (const Alias &alias : kept)
        if (alias.stack != kNoRoom)
            needed[alias.stack] = needed[stack_list_[alias.stack].alike] = true;
    StackStore next(limit_, seed_);
    std::vector<uint32_t> numbers(stack_list_.size(), kNoRoom);
    for (size_t i = 0; i < stack_list_.size(); ++i) {
        if (!needed[i])
            continue;
        const Stack &stack = stack_list_[i];
        scratch_.clear();
        for (uint32_t at = 0; at < stack.count; ++at)
            scratch_.push_back(frame(stack.frames[at]));
        numbers[i] = next.take_stack(stack.first_id, stack.pid, static_cast<dwunw_status>(stack.status), scratch_);
    }
    for (const Alias &alias : kept)
        next.insert({alias.id, alias.stack != kNoRoom ? numbers[alias.stack] : kNoRoom, alias.reason, alias.unneeded});
    next.without_room_ = without_room_;
    next.forgotten_ = forgotten_ + (id_count_ - kept.size());
    next.refused_ = std::move(refused_);
    next.scratch_ = std::move(scratch_);
    *this = std::move(next);
}

dwunw_status StackStore::lookup(uint64_t id, dwunw_bpf_stack &out, std::span<dwunw_frame> frames) const {
    const Alias *known = find(id);
    if (known == nullptr && !refused_.empty() && refused_[(mix(seed_, id) >> 32) % kRefusedBits])
        return DWUNW_ERR_LIMIT;
    if (known == nullptr)
        return DWUNW_ERR_NOT_FOUND;
    if (known->stack == kNoRoom)
        return DWUNW_ERR_LIMIT;
    const Stack &stack = stack_list_[known->stack];
    out.pid = stack.pid;
    out.status = static_cast<dwunw_status>(stack.status);
    out.reason = known->reason;
    out.id = stack.first_id;
    out.count = stack.count;
    for (size_t i = 0; i < std::min<size_t>(frames.size(), stack.count); ++i)
        frames[i] = frame(stack.frames[i]);
    return DWUNW_OK;
}

} // namespace dwunw::bpf
