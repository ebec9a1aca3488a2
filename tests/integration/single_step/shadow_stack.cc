// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "shadow_stack.h"

#include <algorithm>

namespace dwunw::testing {
namespace {
using Kind = ShadowStack::Entry::Kind;
}

void ShadowStack::push_return(uint64_t return_address, uint64_t slot) {
    entries_.push_back(
        {.kind = Kind::kReturn, .pc = return_address, .call = return_address, .slot = slot, .sp = slot + 8});
}

void ShadowStack::push_signal(uint64_t pc, uint64_t sp, uint64_t handler_sp, uint64_t trampoline,
                              uint64_t other_stack_start, uint64_t other_stack_end) {
    const auto on_other = [&](uint64_t address) { return address > other_stack_start && address <= other_stack_end; };
    Entry interrupted{.kind = Kind::kInterrupted, .pc = pc, .call = pc, .slot = handler_sp + 8, .sp = sp};
    if (on_other(handler_sp) && !on_other(sp)) {
        interrupted.other_stack_start = other_stack_start;
        interrupted.other_stack_end = other_stack_end;
    }
    entries_.push_back(interrupted);
    push_return(trampoline, handler_sp);
}

std::string ShadowStack::pop_return(uint64_t sp, uint64_t pc) {
    if (entries_.empty() || entries_.back().kind != Kind::kReturn || entries_.back().slot != sp)
        return "";
    const bool expected = entries_.back().pc == pc;
    entries_.pop_back();
    return expected ? "" : "a return went elsewhere than its call came from";
}

std::string ShadowStack::pop_signal(uint64_t pc, uint64_t sp) {
    if (entries_.empty() || entries_.back().kind != Kind::kInterrupted)
        return "a return from a signal that was not on top";
    const bool expected = entries_.back().pc == pc && entries_.back().sp == sp;
    entries_.pop_back();
    return expected ? "" : "a return from a signal to elsewhere than it came from";
}

size_t ShadowStack::drop_below(uint64_t sp) {
    const size_t before = entries_.size();
    const auto left_other_stack = [&](const Entry &entry) {
        return entry.other_stack_end != 0 && (sp <= entry.other_stack_start || sp > entry.other_stack_end);
    };
    entries_.erase(std::find_if(entries_.begin(), entries_.end(), left_other_stack), entries_.end());
    while (!entries_.empty() && entries_.back().slot < sp) {
        // What lies outside a switch of stacks is not above SP.
        const bool switched = entries_.back().other_stack_end != 0;
        entries_.pop_back();
        if (switched)
            break;
    }
    return before - entries_.size();
}

std::vector<TrueFrame> ShadowStack::chain(uint64_t pc, uint64_t sp) const {
    std::vector<TrueFrame> frames{{.pc = pc, .sp = sp, .exact = true, .call = pc}};
    for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
        const bool interrupted = entry->kind == Kind::kInterrupted;
        frames.back().signal = interrupted;
        frames.push_back({.pc = entry->pc, .sp = entry->sp, .exact = interrupted, .call = entry->call});
    }
    return frames;
}

bool ShadowStack::in_handler() const {
    return std::any_of(entries_.begin(), entries_.end(), [](const Entry &e) { return e.kind == Kind::kInterrupted; });
}

uint64_t ShadowStack::lowest_sp(uint64_t sp) const {
    for (const Entry &entry : entries_)
        sp = std::min(sp, entry.sp);
    return sp;
}

} // namespace dwunw::testing
