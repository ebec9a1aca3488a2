// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Steps a program between two breakpoints of its own, instruction by instruction, and walks the stack at each one by
// dwunw_capture, with a slice that begins 128 bytes below SP. The truth is a ShadowStack.
//
// At the first breakpoint the existing frames are taken from a walk, if it reaches the root and each return address is
// in its place. After that nothing is taken from a walk.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dwunw::testing {

struct StepOptions {
    std::vector<std::string> command;
    // Sends SIGALRM each time this many instructions ran outside a handler; 0: never.
    uint64_t signal_every = 0;
    // Walks over slices cut at every 8 bytes, each time this many instructions ran; 0: never.
    uint64_t cut_every = 0;
    // No walk can go further than into libc: stacks end there.
    bool libc_without_cfi = false;
};

struct StepReport {
    uint64_t steps = 0;   // instructions walked at
    uint64_t signals = 0; // handlers entered
    uint64_t calls = 0;
    uint64_t threads = 0;
    uint64_t deepest = 0; // frames
    uint64_t exact = 0;
    uint64_t before_jumps = 0; // equal to where a longjmp or an exception was about to go
    uint64_t rewritten = 0;    // equal as far as to a frame that libgcc is about to return to by force
    uint64_t complete_cuts = 0, exhausted_cuts = 0;
    // Walks that stopped early with a typed reason, by "function: reason".
    std::map<std::string, uint64_t> incomplete;
    // Everything that must not be, as text; the first hundred of them.
    std::vector<std::string> wrong;
    uint64_t wrong_count = 0;
    bool finished = false; // reached the second breakpoint, or its exit
    int exit_status = -1;  // as waitpid's
};

StepReport step_through(const StepOptions &options);

} // namespace dwunw::testing
