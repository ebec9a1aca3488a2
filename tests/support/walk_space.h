// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the tests of the walks share, in user space, in BPF and under the fuzzer: where a fake process has its module,
// its code without a file and its stack; functions that every such module has; and all the states in which one stack is
// walked.
#pragma once

#include "fake_space.h"
#include "unwind/walk.h"

#include <cstring>
#include <span>

namespace dwunw::testing {

constexpr uint64_t kModule = 0x400000;
constexpr uint64_t kJit = 0x10000;
constexpr uint64_t kUnusable = 0x20000;
constexpr uint64_t kUprobes = 0x7fffffffe000;
constexpr uint64_t kStack = 0x7ff000;

// Functions of the module, by link address. Each test has more, at other addresses.
constexpr uint64_t kLeaf = 0x1000;   // CFA = rsp+8
constexpr uint64_t kMiddle = 0x1100; // CFA = rsp+32, rbp saved at CFA−16
constexpr uint64_t kByRbp = 0x1200;  // CFA = rbp+16, rbp saved at CFA−16
constexpr uint64_t kRoot = 0x1500;   // the return address is undefined
constexpr uint64_t kSignal = 0x1600; // a trampoline with the usual CFI

// The address of a function's byte, where the module is mapped.
constexpr uint64_t at(uint64_t function, uint64_t offset = 0) { return kModule + function + offset; }

inline void add_common_functions(FrameSection &section, size_t cie) {
    using namespace dwarf;
    section.fde(cie, kLeaf, 0x100);
    section.fde(cie, kMiddle, 0x100, Bytes().def_cfa_offset(32).offset(RBP, 2));
    section.fde(cie, kByRbp, 0x100, Bytes().def_cfa(RBP, 16).offset(RBP, 2));
    section.fde(cie, kRoot, 0x100, Bytes({DW_CFA_undefined, RIP}));
    const size_t signal_cie = section.cie(usual_cie_instructions(), "zRS");
    section.fde(signal_cie, kSignal - 1, 0x101, // as glibc does: a handler returns to the first byte
                Bytes({DW_CFA_def_cfa_expression, 4, DW_OP_breg0 + 7, 0xa0, 1, DW_OP_deref})
                    .add({DW_CFA_expression, RIP, 3, DW_OP_breg0 + 7, 0xa8, 1})
                    .add({DW_CFA_expression, RBP, 3, DW_OP_breg0 + 7, 0xf8, 0})
                    .add({DW_CFA_expression, RSP, 3, DW_OP_breg0 + 7, 0xa0, 1}));
}

// The code of a signal trampoline, by which it is recognised where there is no CFI: mov $15, %rax; syscall.
inline void set_signal_code(FakeSpace &space, uint64_t address) {
    space.set_code(address, {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05});
}

// Code that no file is, the kernel's page of pending returns, and a file that has changed.
inline void add_code_without_module(FakeSpace &space) {
    space.add_other(unwind::CodeKind::kAnonymous, kJit, 0x1000);
    space.add_other(unwind::CodeKind::kUprobeTrampoline, kUprobes, 0x1000);
    space.add_other(unwind::CodeKind::kUnusableModule, kUnusable, 0x1000, DWUNW_ERR_MODULE_CHANGED);
}

// Calls `again` with a name for each state in which the cold walk's result has to come again: with an empty memory of
// rules, with a full one, with places that must be looked at again, and the same with compiled tables.
template <typename F> void in_every_state(FakeSpace &space, F again) {
    space.rules = std::make_unique<unwind::RuleCache>();
    again("remembering");
    again("warm");
    space.stale = true;
    again("places to be looked at again");
    space.stale = false;
    space.compile();
    ++space.generation;
    again("from tables");
    again("warm from tables");
}

// What distinguishes two results of one walk; nullptr: nothing.
inline const char *difference(const unwind::WalkResult &a, std::span<const dwunw_frame> a_frames,
                              const unwind::WalkResult &b, std::span<const dwunw_frame> b_frames) {
    if (a.status != b.status)
        return "the status";
    if (a.written != b.written)
        return "the number of frames";
    if (a.frame_pointer_frames != b.frame_pointer_frames)
        return "the frames by frame pointer";
    if (a.trampoline_frames != b.trampoline_frames)
        return "the frames behind the kernel's trampoline";
    if (a.unmentioned_frames != b.unmentioned_frames)
        return "the frames by a register that no rule mentions";
    if (a.no_code_frames != b.no_code_frames)
        return "the frames that are not code";
    if (a.used_interpreter != b.used_interpreter)
        return "the use of the interpreter";
    if (std::memcmp(a_frames.data(), b_frames.data(), a.written * sizeof(dwunw_frame)) != 0)
        return "a frame";
    return nullptr;
}

} // namespace dwunw::testing
