// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An abstract interpretation of SP and FP. Where two paths meet with different values, the value becomes unknown, and
// the code behind is followed again. So each address is visited a few times at most. Paths over the same number of
// calls are followed together, fewest calls first. A path over more calls ends where a path over fewer calls has been.
//
// Limits: instructions visited, addresses remembered, calls on a path, pieces of code read. If a limit ends the walk,
// the answer says that it is not complete.
#include "unwind/code_answers.h"
#include "unwind/code_state.h"

#include <algorithm>

namespace dwunw::unwind {
namespace {

using arch::Instruction;
using Base = CodeValue::Base;

constexpr uint32_t kMostCalls = 200;
constexpr size_t kMostFromPc = 8000; // instructions
constexpr size_t kMostFromStart = 24000;
constexpr size_t kMostOfCallee = 800;
constexpr size_t kMostCallees = 64; // remembered
constexpr size_t kMostAStep = 100'000;
constexpr size_t kMostAtAll = 2'000'000;
// The table of visited addresses is at most half full, and grows. Most functions are small.
constexpr unsigned kFirstTableBits = 9;
constexpr unsigned kMostTableBits = 16;
static_assert(kMostFromStart <= size_t{1} << (kMostTableBits - 1));

constexpr CodeValue kOuterFp{Base::kAtFp, 0};

// FP is restored, and SP is at the return address. A function does this only at its end.
bool frame_is_given_back(const CodeState &state) { return state.sp == CodeValue{Base::kFp, 8} && state.fp == kOuterFp; }

// At a return: goes back to the start's caller, with the caller's FP.
bool returns_to_start(const CodeState &state) { return state.sp == CodeValue{Base::kSp, 0} && state.fp == kStartFp; }

} // namespace

// The last call on a path.
struct CodePaths::LastCall {
    RunAddr returns_to; // 0: none
    CodeState state;    // there
};

struct CodePaths::Work {
    struct Visited {
        uint64_t address = 0;
        uint32_t walk = 0; // an entry of another walk counts as free
        uint32_t calls = 0;
        CodeState state;
    };
    struct Pending {
        RunAddr address;
        CodeState state;
        LastCall last_call;
    };
    struct Piece {
        static constexpr size_t kSize = 256;
        uint64_t start = ~uint64_t{0};
        size_t length = 0;
        std::array<uint8_t, kSize> bytes;
    };
    unsigned table_bits = kFirstTableBits;
    std::vector<Visited> visited = std::vector<Visited>(size_t{1} << kFirstTableBits);
    uint32_t walk = 0;
    size_t visited_count = 0;
    std::vector<Pending> now;
    std::vector<Pending> behind_a_call;
    std::array<Piece, 16> pieces;
    CodeLocation location;

    // Makes room for one more. Invalidates what find() has returned.
    bool make_room() {
        if (visited_count < visited.size() / 2)
            return true;
        if (table_bits == kMostTableBits)
            return false;
        table_bits += 1;
        std::vector<Visited> old(size_t{1} << table_bits);
        std::swap(old, visited);
        for (const Visited &entry : old)
            if (entry.walk == walk)
                *find(RunAddr(entry.address)) = entry;
        return true;
    }
    Visited *find(RunAddr address) {
        size_t at = address.value * 0x9e3779b97f4a7c15u >> (64 - table_bits);
        while (visited[at].walk == walk && visited[at].address != address.value)
            at = (at + 1) % visited.size();
        return &visited[at];
    }
};

CodePaths::CodePaths(const arch::Arch &arch, AddressSpace &space, CodeAnswers *answers, uint64_t generation,
                     uint64_t now)
    : arch_(arch), space_(space), answers_(answers), generation_(generation), now_(now),
      work_(std::make_unique<Work>()), own_budget_{.step = kMostAStep, .all = kMostAtAll}, budget_(own_budget_) {}
CodePaths::CodePaths(const arch::Arch &arch, AddressSpace &space, Budget &callers)
    : arch_(arch), space_(space), work_(std::make_unique<Work>()), is_callee_(true), budget_(callers) {}
CodePaths::~CodePaths() = default;

void CodePaths::begin_step() { budget_.step = kMostAStep; }

bool CodePaths::spend() {
    if (budget_.step == 0 || budget_.all == 0) {
        budget_.spent = true;
        return false;
    }
    --budget_.step;
    --budget_.all;
    return true;
}

std::optional<Instruction> CodePaths::instruction_at(RunAddr address) {
    Work &work = *work_;
    const auto inside = [&] { return address >= work.location.start && address < work.location.end; };
    if (!inside()) {
        work.location = space_.find(address);
        if (work.location.kind == CodeKind::kUnmapped || !inside()) {
            budget_.spent = true;
            return std::nullopt;
        }
    }
    if (work.location.module != budget_.home)
        budget_.left_home = true;
    std::array<uint8_t, 16> code;
    size_t have = 0;
    while (have < arch_.max_instruction_length && have < code.size()) {
        const RunAddr at = address + have;
        if (at >= work.location.end || at < address)
            break;
        // Pieces are aligned within the mapping, and cut at its ends.
        const RunAddr start(std::max(at.value / Work::Piece::kSize * Work::Piece::kSize, work.location.start.value));
        Work::Piece &piece = work.pieces[at.value / Work::Piece::kSize % work.pieces.size()];
        if (piece.start != start.value) {
            const uint64_t piece_end = (at.value / Work::Piece::kSize + 1) * Work::Piece::kSize;
            piece.length = std::min(piece_end, work.location.end.value) - start.value;
            piece.start = start.value;
            if (!space_.read_code(start, std::span(piece.bytes).first(piece.length)))
                piece.length = 0;
        }
        const uint64_t offset = at - start;
        if (offset >= piece.length)
            break;
        const size_t count = std::min({piece.length - offset, arch_.max_instruction_length - have, code.size() - have});
        std::copy_n(piece.bytes.begin() + static_cast<ptrdiff_t>(offset), count,
                    code.begin() + static_cast<ptrdiff_t>(have));
        have += count;
    }
    return arch_.decode(std::span(code).first(have));
}

// Calls visit(address, instruction, state, calls, last call) before each instruction; visit returns false to end the
// walk. Returns whether every path was followed to its end.
template <typename Visit>
bool CodePaths::follow(RunAddr start, const CodeState &begin, uint32_t calls, size_t most, Visit visit) {
    Work &work = *work_;
    if (++work.walk == 0) { // once in 2^32 walks
        std::ranges::fill(work.visited, Work::Visited{});
        work.walk = 1;
    }
    work.visited_count = 0;
    work.now.assign(1, {start, begin, {}});
    work.behind_a_call.clear();
    bool complete = true;
    size_t left = most;
    for (; !work.now.empty(); ++calls) {
        while (!work.now.empty()) {
            auto [address, state, last_call] = work.now.back();
            work.now.pop_back();
            while (true) {
                if (!work.make_room())
                    return false;
                Work::Visited *seen = work.find(address);
                if (seen->walk == work.walk) {
                    if (seen->calls < calls)
                        break;
                    const CodeState joined = join(seen->state, state);
                    if (joined == seen->state)
                        break;
                    seen->state = state = joined;
                } else {
                    ++work.visited_count;
                    *seen = {address.value, work.walk, calls, state};
                }
                if (left-- == 0 || !spend())
                    return false;
                const auto instruction = instruction_at(address);
                if (!instruction) {
                    complete = false;
                    break;
                }
                if (!visit(address, *instruction, state, calls, last_call))
                    return false;
                const RunAddr next = address + instruction->length;
                const RunAddr target = address + static_cast<uint64_t>(instruction->target);
                execute(*instruction, state);
                using Flow = Instruction::Flow;
                bool goes_on = true;
                switch (instruction->flow) {
                case Flow::kNext:
                    break;
                case Flow::kBranch:
                    work.now.push_back({target, state, last_call});
                    break;
                case Flow::kJump:
                    address = target;
                    continue;
                case Flow::kCall:
                    if (target == next) { // call to the next instruction: code that asks for its own address
                        state.sp = plus(state.sp, -8);
                        break;
                    }
                    if (never_returns(target)) {
                        goes_on = false;
                        break;
                    }
                    [[fallthrough]];
                case Flow::kIndirectCall:
                case Flow::kSystemCall:
                    if (calls < kMostCalls)
                        work.behind_a_call.push_back({next, state, {next, state}});
                    else
                        complete = false;
                    goes_on = false;
                    break;
                case Flow::kIndirectJump:
                    complete = complete && frame_is_given_back(state);
                    goes_on = false;
                    break;
                case Flow::kReturn:
                case Flow::kEnd:
                    goes_on = false;
                    break;
                }
                if (!goes_on)
                    break;
                address = next;
            }
        }
        std::swap(work.now, work.behind_a_call);
    }
    return complete;
}

CodePaths::Home CodePaths::home_of(RunAddr address) {
    if (answers_ == nullptr)
        return {};
    const CodeLocation location = space_.find(address);
    if (location.kind == CodeKind::kModule)
        return {true, location.module, location.bias, 0};
    return {location.kind == CodeKind::kAnonymous && now_ != 0, nullptr, {}, generation_};
}

template <typename Find> bool CodePaths::ask(const Home &home, Find find) {
    const Budget outer = budget_;
    budget_.home = home.module;
    budget_.left_home = budget_.spent = false;
    find();
    const bool left_home = budget_.left_home;
    const bool spent = budget_.spent;
    budget_.home = outer.home;
    budget_.left_home = outer.left_home || left_home || home.module != outer.home;
    budget_.spent = outer.spent || spent;
    return home.keeps && !spent && (home.module == nullptr || !left_home);
}

CodeExits CodePaths::exits(CodeAddr pc) {
    const Home home = home_of(pc.lookup());
    const CodeAnswers::Question place{
        home.module, home.generation, home.bias.link(pc.pc()), {}, pc.is_return_address()};
    if (home.keeps)
        if (auto known = answers_->exits(place, now_)) {
            for (size_t i = 0; i < known->count; ++i)
                known->exits[i].address = home.bias.run(LinkAddr(known->exits[i].address.value));
            return *known;
        }
    CodeExits result;
    if (ask(home, [&] { result = find_exits(pc); })) {
        CodeExits kept = result;
        for (size_t i = 0; i < kept.count; ++i)
            kept.exits[i].address = RunAddr(home.bias.link(kept.exits[i].address).value);
        answers_->keep(place, now_, kept);
    }
    return result;
}

CodeReach CodePaths::reach(RunAddr start, CodeAddr pc) {
    const Home home = home_of(pc.lookup());
    const CodeAnswers::Question place{home.module, home.generation, home.bias.link(pc.pc()), home.bias.link(start),
                                      pc.is_return_address()};
    if (home.keeps)
        if (const auto known = answers_->reach(place, now_))
            return *known;
    CodeReach result;
    if (ask(home, [&] { result = find_reach(start, pc); }))
        answers_->keep(place, now_, result);
    return result;
}

std::optional<CodeReach> CodePaths::prologue(CodeAddr pc) {
    const Home home = home_of(pc.lookup());
    const CodeAnswers::Question place{
        home.module, home.generation, home.bias.link(pc.pc()), {}, pc.is_return_address()};
    if (home.keeps)
        if (const auto known = answers_->prologue(place, now_))
            return *known;
    std::optional<CodeReach> result;
    if (ask(home, [&] { result = find_prologue(pc); }))
        answers_->keep(place, now_, result);
    return result;
}

std::optional<CodeReach> CodePaths::find_prologue(CodeAddr pc) {
    // The first distance finds the beginning of most functions.
    constexpr std::array<size_t, 2> kSearched = {768, 8192};
    constexpr size_t kMostPrologues = 3;
    const CodeLocation location = space_.find(pc.lookup());
    if (location.kind == CodeKind::kUnmapped)
        return std::nullopt;
    std::array<uint8_t, kSearched.back()> buffer;
    for (const size_t searched : kSearched) {
        const size_t before = std::min<uint64_t>(searched, pc.pc() - location.start);
        const auto code = std::span(buffer).first(before);
        if (!space_.read_code(pc.pc() - before, code)) {
            budget_.spent = true;
            return std::nullopt;
        }
        size_t end = before;
        for (size_t i = 0; i < kMostPrologues; ++i) {
            const auto at = arch_.frame_begins(code, end);
            if (!at)
                break;
            const CodeReach found = find_reach(pc.pc() - (before - *at), pc);
            if (found.reached && found.state.fp.base == Base::kSp && found.state.fp == found.state.saved_fp)
                return found;
            end = *at;
        }
        if (before < searched)
            break;
    }
    return std::nullopt;
}

bool CodePaths::never_returns(RunAddr start) {
    if (is_callee_)
        return false;
    const auto known = std::ranges::find(known_, start, &Callee::start);
    if (known != known_.end()) {
        budget_.left_home = budget_.left_home || known->module != budget_.home;
        budget_.spent = budget_.spent || known->spent;
        return known->never_returns;
    }
    const Home home = home_of(start);
    const CodeAnswers::Question place{home.module, home.generation, home.bias.link(start), {}, false};
    if (home.keeps)
        if (const auto answer = answers_->never_returns(place, now_)) {
            budget_.left_home = budget_.left_home || home.module != budget_.home;
            return *answer;
        }
    if (!callees_)
        callees_.reset(new CodePaths(arch_, space_, budget_));
    bool never = false;
    bool spent = false;
    const bool keeps = ask(home, [&] {
        never = callees_->has_no_return(start);
        spent = budget_.spent || budget_.left_home;
    });
    if (keeps)
        answers_->keep_never_returns(place, now_, never);
    if (known_.size() == kMostCallees)
        known_.clear();
    known_.push_back({start, never, home.module, spent});
    return never;
}

// Assumes that inner calls return. Code behind a call that does not return cannot end, by chance, in a return from this
// function, except in code with a frame whose end matches this function's beginning.
bool CodePaths::has_no_return(RunAddr start) {
    bool may_return = false;
    const bool complete =
        follow(start, {}, 0, kMostOfCallee,
               [&](RunAddr, const Instruction &instruction, const CodeState &state, uint32_t, const LastCall &) {
                   if (instruction.flow == Instruction::Flow::kReturn)
                       may_return = state.sp.base != Base::kSp || state.sp.offset == 0;
                   return !may_return;
               });
    return complete && !may_return;
}

CodeExits CodePaths::find_exits(CodeAddr pc) {
    CodeExits result;
    bool full = false;
    bool gives_fp_back = false;
    uint32_t found_over = 0;
    const uint32_t calls = pc.is_return_address() ? 1 : 0; // the call that has not returned yet
    const bool complete = follow(
        pc.pc(), {}, calls, kMostFromPc,
        [&](RunAddr address, const Instruction &instruction, const CodeState &state, uint32_t over, const LastCall &) {
            // The exits over the fewest calls are known. An exit that restores FP needs no others.
            if (gives_fp_back && over > found_over)
                return false;
            // A return address that is popped into a register: V8 removes arguments in this way.
            const bool takes_return_address =
                instruction.effect == Instruction::Effect::kPop && !instruction.of_fp && frame_is_given_back(state);
            // V8's bytecode handlers: mov (%rbp), %rbp; add $n, %rsp; jmp *%rcx.
            const bool leaves = instruction.flow == Instruction::Flow::kIndirectJump &&
                                state.sp.base != Base::kUnknown && state.fp == kOuterFp;
            const bool returns = instruction.flow == Instruction::Flow::kReturn;
            if (!returns && !leaves && !takes_return_address)
                return true;
            if (result.count > 0 && over > 0 && result.exits[0].calls == 0)
                return false; // a path without calls is certain
            const CodeExit found{
                address, state.sp, state.fp, over, returns ? static_cast<uint32_t>(instruction.offset) : 0, leaves};
            const auto known = std::span(result.exits).first(result.count);
            const auto same = std::ranges::find(known, address, &CodeExit::address);
            if (same != known.end()) { // two paths have met
                *same = found;
                return true;
            }
            if (result.count == CodeExits::kMost) {
                full = true;
                return false;
            }
            result.exits[result.count++] = found;
            return true;
        });
    result.complete = complete && !full;
    return result;
}

CodeReach CodePaths::find_reach(RunAddr start, CodeAddr pc) {
    CodeReach result;
    uint32_t reached_over = 0;
    LastCall over;
    const bool complete =
        follow(start, {}, 0, kMostFromStart,
               [&](RunAddr address, const Instruction &instruction, const CodeState &state, uint32_t calls,
                   const LastCall &last_call) {
                   using Flow = Instruction::Flow;
                   if (result.reached && calls > reached_over)
                       return false;
                   const bool calls_out = instruction.flow == Flow::kCall || instruction.flow == Flow::kIndirectCall;
                   const bool here = pc.is_return_address() ? calls_out && address + instruction.length == pc.pc()
                                                            : address == pc.pc();
                   if (here) {
                       result.state = result.reached ? join(result.state, state) : state;
                       result.reached = true;
                       reached_over = calls;
                       over = last_call;
                   }
                   if (instruction.flow == Flow::kReturn)
                       result.returns = result.returns || returns_to_start(state);
                   if (instruction.flow == Flow::kIndirectJump && result.jump_count < CodeReach::kMostJumps)
                       result.jumps[result.jump_count++] = state.sp;
                   return true;
               });
    result.complete = complete;
    result.returns_from_there = !result.reached || over.returns_to == RunAddr(0);
    if (!result.returns_from_there)
        follow(over.returns_to, over.state, 0, kMostFromPc,
               [&](RunAddr, const Instruction &instruction, const CodeState &state, uint32_t, const LastCall &) {
                   if (instruction.flow == Instruction::Flow::kReturn)
                       result.returns_from_there = returns_to_start(state);
                   return !result.returns_from_there;
               });
    return result;
}

} // namespace dwunw::unwind
