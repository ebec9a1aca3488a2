// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds where code keeps its return address, by following the code itself along every path:
//
//     pc →  add  $0x18,%rsp      SP + 0x18
//           pop  %rbx            SP + 0x20
//           ret                  an exit: the return address is at SP + 0x20
//
// Each instruction changes what is known of SP and FP. No code is executed, and no stack is read. So an answer holds
// for an address as long as the code there does not change.
//
// A path over a call is real only if the callee returns: the code behind a call that does not return may be another
// function's. If a called function has no return in its own code, no path leads over the call. Of other functions it is
// not known. So each answer says how many calls its path leads over. Paths over fewer calls are followed first, and an
// answer over more calls never overrules one over fewer.
//
// Proved by tests/unit/unwind_code_paths_test, and by tests/integration/frames_without_cfi_test.py on whole programs.
#pragma once

#include "arch/arch.h"
#include "unwind/address_space.h"
#include "unwind/code_state.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace dwunw::unwind {

// One way out of a function: a return, or a jump that only a function without a frame of its own makes.
struct CodeExit {
    RunAddr address; // the instruction's
    CodeValue slot;  // the address of the return address
    CodeValue fp;    // FP there
    uint32_t calls = 0;
    uint32_t removed = 0; // bytes that the return removes in addition to the return address
    bool is_jump = false; // through a pointer, where FP is the word that FP pointed to
};

struct CodeExits {
    static constexpr size_t kMost = 24;
    std::array<CodeExit, kMost> exits;
    size_t count = 0;
    bool complete = true; // every path was followed to its end
};

// The way from a start to an address.
struct CodeReach {
    bool reached = false;
    CodeState state; // at the address
    bool complete = true;
    // A path over the same calls returns to the caller of the start, so these calls return.
    bool returns_from_there = false;
    bool returns = false; // a path from the start returns to the start's caller
    // SP at the indirect jumps on the way: a jump by table keeps its function's frame.
    static constexpr size_t kMostJumps = 8;
    std::array<CodeValue, kMostJumps> jumps{};
    size_t jump_count = 0;
};

class CodeAnswers;

// Not thread-safe. Allocates when it is made, and when it first meets a call.
class CodePaths {
  public:
    // `answers` outlives this; it is asked first, and receives what is found. nullptr: none. Code without a file uses
    // it only if `now` (AddressSpace::Warm) is known.
    CodePaths(const arch::Arch &arch, AddressSpace &space, CodeAnswers *answers = nullptr, uint64_t generation = 0,
              uint64_t now = 0);
    ~CodePaths();
    // Begins one step. A step has a budget of instructions, and so have all steps together. Once it is spent, no answer
    // is complete, and nothing more is found.
    void begin_step();
    CodePaths(const CodePaths &) = delete;
    CodePaths &operator=(const CodePaths &) = delete;

    // The ways out from `pc`.
    CodeExits exits(CodeAddr pc);
    // From a function's first instruction to `pc`: for a return address, to the call before it.
    CodeReach reach(RunAddr start, CodeAddr pc);

    // Whether it is certain that a function's code has no path to a return.
    bool never_returns(RunAddr start);
    // The way to `pc` from the nearest place before it that looks like the beginning of a frame and leads to `pc` with
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

    // What the current answer depends on.
    struct Budget {
        size_t step = 0;
        size_t all = 0;
        const dwunw_module *home = nullptr; // the module that the question is about; nullptr: code without a file
        bool left_home = false;             // the answer depends on another module, too
        bool spent = false;                 // the budget was spent: the answer is not complete
    };
    CodePaths(const arch::Arch &arch, AddressSpace &space, Budget &callers);
    // The module that an address lies in.
    struct Home {
        bool keeps = false; // its answers are kept
        const dwunw_module *module = nullptr;
        LoadBias bias;
        uint64_t generation = 0;
    };
    Home home_of(RunAddr address);
    // Runs `find` as a question about a module. True if the answer may be kept.
    template <typename Find> bool ask(const Home &home, Find find);

    const arch::Arch &arch_;
    AddressSpace &space_;
    CodeAnswers *answers_ = nullptr;
    uint64_t generation_ = 0;
    uint64_t now_ = 0;
    std::unique_ptr<Work> work_;
    // For the called functions on the way: knows whether they return.
    std::unique_ptr<CodePaths> callees_;
    const bool is_callee_ = false;
    Budget own_budget_;
    Budget &budget_;
    struct Callee {
        RunAddr start;
        bool never_returns;
        const dwunw_module *module; // the module that the answer is about
        bool spent;                 // the answer is not complete
    };
    std::vector<Callee> known_;
};

} // namespace dwunw::unwind
