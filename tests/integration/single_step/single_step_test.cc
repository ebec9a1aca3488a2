// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Steps programs through every instruction of prologues, epilogues, PLT stubs, realigned stacks, signal delivery and
// return, thread starts and exceptions. Walks the stack at each instruction, and compares it with the executed calls.
// Now and then also walks every shorter slice.
#include "tracer.h"

#include <gtest/gtest.h>

#include <sys/wait.h>

#include <algorithm>
#include <iostream>
#include <regex>

namespace {

using dwunw::testing::step_through;
using dwunw::testing::StepOptions;
using dwunw::testing::StepReport;

// Where a walk may stop early: code without CFI. Each is the beginning of the text "innermost … outermost: reason".
// Compiled without CFI: crtstuff.c's functions, and the pieces of .fini.
constexpr auto kStartUpCode = "^(__do_global_dtors_aux|deregister_tm_clones|_fini): no call-frame information$";
// setjmp and longjmp, of which musl says nothing, and a handler that interrupted them. Their symbols have no size: they
// name the first byte alone.
constexpr auto kMuslsAssembly = "^(brief_handler … )?(__setjmp|_longjmp|libc.so\\+0x[0-9a-f]+)"
                                "( … (__setjmp|_longjmp|libc.so\\+0x[0-9a-f]+))?: no call-frame information$";
// uw_install_context_1 writes the registers of the frame that it goes to over those that its caller saved.
constexpr auto kLibgccsUnwinder = "^(_Unwind_(RaiseException|Resume|Resume_or_Rethrow)|libgcc_s.*)(:| …)";

struct Case {
    const char *name;
    const char *program;
    std::vector<const char *> arguments;
    uint64_t signal_every = 0;
    uint64_t at_least = 0;               // instructions
    const char *incomplete_at = nullptr; // a regular expression of "where: why"
};

void PrintTo(const Case &test, std::ostream *out) { *out << test.name; }

StepReport run(const Case &test) {
    StepOptions options;
    options.command = {std::string(STEP_TARGETS "/") + test.program};
    options.command.insert(options.command.end(), test.arguments.begin(), test.arguments.end());
    options.signal_every = test.signal_every;
    options.cut_every = 1201;
    options.libc_without_cfi = options.command[0].ends_with("step_musl");
    StepReport report = step_through(options);
    std::cout << report.steps << " instructions (" << report.exact << " exact, " << report.before_jumps
              << " before jumps, " << report.rewritten << " being rewritten), " << report.calls << " calls, "
              << report.signals << " signals, " << report.threads << " threads, " << report.deepest
              << " frames at most; cut slices: " << report.exhausted_cuts << " short, " << report.complete_cuts
              << " whole\n";
    for (const auto &[where, count] : report.incomplete)
        std::cout << "  incomplete: " << count << " × " << where << "\n";
    return report;
}

class SingleStep : public ::testing::TestWithParam<Case> {};

TEST_P(SingleStep, EveryWalkEqualsTheExecutedCalls) {
    const Case &test = GetParam();
    if (std::string(test.program).find("avx2") != std::string::npos && !__builtin_cpu_supports("avx2"))
        GTEST_SKIP() << "skipped: no AVX2";
    const StepReport report = run(test);
    EXPECT_EQ(report.wrong_count, 0u);
    for (size_t i = 0; i < std::min<size_t>(report.wrong.size(), 5); ++i)
        ADD_FAILURE() << report.wrong[i];
    EXPECT_TRUE(report.finished);
    EXPECT_TRUE(WIFEXITED(report.exit_status) && WEXITSTATUS(report.exit_status) == 0) << report.exit_status;
    EXPECT_GE(report.steps, test.at_least);
    for (const auto &[where, count] : report.incomplete)
        EXPECT_TRUE(test.incomplete_at != nullptr && std::regex_search(where, std::regex(test.incomplete_at)))
            << count << " × " << where;
    // Seldom, even in code that does little else.
    EXPECT_LE(report.before_jumps, 100u);
    EXPECT_LE(report.rewritten, std::string(test.name).ends_with("throw") ? report.steps / 200 : 0u);
    if (test.signal_every != 0) {
        EXPECT_GT(report.signals, report.steps / test.signal_every / 4);
    }
}

INSTANTIATE_TEST_SUITE_P(
    Programs, SingleStep,
    ::testing::Values(
        Case{"gcc_frames", "step_gcc", {"frames"}, 0, 5000},
        Case{"gcc_frames_interrupted", "step_gcc", {"frames"}, 7, 10000},
        Case{"gcc_frames_interrupted_onto_another_stack", "step_gcc", {"frames", "alt"}, 11, 10000},
        Case{"gcc_libc", "step_gcc", {"libc"}, 0, 5000}, Case{"gcc_plt", "step_gcc", {"plt"}, 0, 1000},
        Case{"gcc_plt_interrupted", "step_gcc", {"plt"}, 5, 1000},
        Case{"gcc_signals", "step_gcc", {"signals"}, 0, 2000},
        Case{"gcc_signals_on_another_stack", "step_gcc", {"signals", "alt"}, 0, 2000},
        Case{"gcc_threads", "step_gcc", {"threads"}, 0, 5000}, Case{"gcc_resolver", "step_gcc", {"resolver"}, 0, 2000},
        Case{"gcc_exit", "step_gcc", {"exit"}, 0, 500, kStartUpCode},
        Case{"gcc_cet_frames", "step_gcc_cet", {"frames"}, 0, 5000},
        Case{"gcc_cet_plt_sec", "step_gcc_cet", {"plt"}, 5, 1000},
        Case{"gcc_avx2_frames", "step_gcc_avx2", {"frames"}, 0, 3000},
        Case{"gcc_avx2_signals", "step_gcc_avx2", {"signals"}, 0, 1000},
        Case{"clang_frames", "step_clang", {"frames"}, 7, 5000}, Case{"clang_plt", "step_clang", {"plt"}, 0, 1000},
        Case{"clang_signals", "step_clang", {"signals", "alt"}, 0, 1000},
        Case{"clang_avx2_frames", "step_clang_avx2", {"frames"}, 0, 3000},
        Case{"musl_frames", "step_musl", {"frames"}, 7, 3000, kMuslsAssembly},
        Case{"musl_frames_interrupted_onto_another_stack", "step_musl", {"frames", "alt"}, 11, 3000, kMuslsAssembly},
        Case{"gcc_throw", "step_throw_gcc", {}, 0, 10000, kLibgccsUnwinder},
        Case{"clang_throw", "step_throw_clang", {}, 0, 10000, kLibgccsUnwinder}),
    [](const auto &test) { return test.param.name; });

} // namespace
