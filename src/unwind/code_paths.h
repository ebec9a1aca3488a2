// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Where code keeps its return address, found by following the code itself: every path from an address, with what each
// instruction does to SP and FP. Nothing is executed, no stack is read. So an answer holds for an address for as long
// as the code there does.
//
// A path behind a call is real only if the callee returns. Code that a compiler knows not to be reached may be another
// function's. Behind a call of a function that has no return in its own code no path leads on. Of others nobody knows.
// So each answer says over how many calls it leads, and the paths over fewer calls are followed first; what is reached
// over fewer calls is not overruled by what is reached over more.
//
// Proved by tests/unit/unwind_code_paths_test, and by tests/integration/frames_without_cfi.py on whole programs.
#pragma once

#include "arch/arch.h"
#include "unwind/address_space.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace dwunw::unwind {

// What a register holds, in terms of where the walk over the code began: SP or FP as they were there, plus an offset,
// or the word at such an address.
struct CodeValue {
    enum class Base : uint8_t { kUnknown, kSp, kFp, kAtSp, kAtFp } base = Base::kUnknown;
    int32_t offset = 0;
    bool operator==(const CodeValue &) const = default;
};

struct CodeState {
    CodeValue sp{CodeValue::Base::kSp, 0};
    CodeValue fp{CodeValue::Base::kFp, 0};
    CodeValue saved_fp; // the address at which FP, as it was at the start, has been saved
    bool operator==(const CodeState &) const = default;
};

// One way out of a function: a return, or a jump that only a function without a frame of its own makes.
struct CodeExit {
    RunAddr address; // the instruction's
    CodeValue slot;  // the address of the return address
    CodeValue fp;    // FP there
    uint32_t calls = 0;
    uint32_t removed = 0; // bytes that the return removes beside the return address
    bool is_jump = false; // through a pointer, FP being what FP pointed to
};

struct CodeExits {
    static constexpr size_t kMost = 24;
    std::array<CodeExit, kMost> exits;
    size_t count = 0;
    bool complete = true; // no path went where it could not be followed, and all were
};

// How an address is reached from a start.
struct CodeReach {
    bool reached = false;
    CodeState state; // at the address
    bool complete = true;
    // A path that comes over the same calls returns to where the start was called from: those calls return, then.
    bool returns_from_there = false;
    bool returns = false; // a path from the start returns to where the start was called from
    // SP at the indirect jumps that were met: a jump by table keeps its function's frame.
    static constexpr size_t kMostJumps = 8;
    std::array<CodeValue, kMostJumps> jumps{};
    size_t jump_count = 0;
};

class CodeAnswers;

// Not thread-safe. Allocates when it is made, and when it first meets a call.
class CodePaths {
  public:
    // `answers`, which outlive this, are asked first, and get what is found; nullptr: none. Of code without a file only
    // where `now` (AddressSpace::Warm) is known.
    CodePaths(const arch::Arch &arch, AddressSpace &space, CodeAnswers *answers = nullptr, uint64_t generation = 0,
              uint64_t now = 0);
    ~CodePaths();
    // What follows is one step's. A step has a budget of instructions, and so have all of them together: once it is
    // spent, no answer is complete, and nothing more is found.
    void begin_step();
    CodePaths(const CodePaths &) = delete;
    CodePaths &operator=(const CodePaths &) = delete;

    // The ways out from `pc`.
    CodeExits exits(CodeAddr pc);
    // From a function's first instruction to `pc`: for a return address, to the call before it.
    CodeReach reach(RunAddr start, CodeAddr pc);

    // Whether the code of a function has no path to its return, for certain.
    bool never_returns(RunAddr start);
    // The way to `pc` from the nearest place before it that looks like the beginning of a frame and leads to it with
    // the frame pointer set up.
    std::optional<CodeReach> prologue(CodeAddr pc);

  private:
    struct LastCall;
    struct Work;
    template <typename Visit>
    bool follow(RunAddr start, const CodeState &begin, uint32_t calls, size_t most, Visit visit);
    std::optional<arch::Instruction> instruction_at(RunAddr address);
    bool has_no_return(RunAddr start);
    bool spend();
    CodeExits find_exits(CodeAddr pc);
    CodeReach find_reach(RunAddr start, CodeAddr pc);
    std::optional<CodeReach> find_prologue(CodeAddr pc);

    // What an answer that is being looked for depends on.
    struct Budget {
        size_t step = 0;
        size_t all = 0;
        const dwunw_module *home = nullptr; // the module that the question is about; nullptr: code without a file
        bool left_home = false;             // the answer is not that module's alone
        bool spent = false;                 // or it is not all that there is
    };
    CodePaths(const arch::Arch &arch, AddressSpace &space, Budget &callers);
    // What code an address lies in.
    struct Home {
        bool keeps = false; // its answers are kept
        const dwunw_module *module = nullptr;
        LoadBias bias;
        uint64_t generation = 0;
    };
    Home home_of(RunAddr address);
    // Runs `find` as a question about a module; true where the answer may be kept.
    template <typename Find> bool ask(const Home &home, Find find);

    const arch::Arch &arch_;
    AddressSpace &space_;
    CodeAnswers *answers_ = nullptr;
    uint64_t generation_ = 0;
    uint64_t now_ = 0;
    std::unique_ptr<Work> work_;
    // For the functions that are called on the way, of which is known whether they return.
    std::unique_ptr<CodePaths> callees_;
    const bool is_callee_ = false;
    Budget own_budget_;
    Budget &budget_;
    struct Callee {
        RunAddr start;
        bool never_returns;
        const dwunw_module *module; // whose answer it is
        bool spent;                 // or it is no whole answer
    };
    std::vector<Callee> known_;
};

} // namespace dwunw::unwind
