// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw stack -p PID, or --core FILE: every thread's stack. A live target is stopped only while registers and stacks
// are read. Names are looked up after it runs on, from files that stay open.
#include "command.h"
#include "frame_text.h"
#include "held.h"
#include "stack/report.h"
#include "stack/take.h"
#include "target.h"

#include <dwunw/core.h>
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include <optional>
#include <vector>

namespace dwunw_tool {
namespace {

using Core = Handle<dwunw_core, dwunw_core_close>;

struct StackOptions {
    int32_t pid = 0; // for a core: the number in the core
    std::optional<std::string> core;
    std::string exe;
    std::string sysroot;
    uint64_t max_frames = kDefaultFrames; // 0: unlimited
    bool json = false;
    bool no_symbols = false;
    HoldOptions hold;
};

int report(const StackOptions &options, const std::vector<ThreadStack> &stacks) {
    Symbolizer symbolizer;
    if (!options.no_symbols) {
        if (const dwunw_status status = dwunw_symbolizer_open(Receive(symbolizer)); status != DWUNW_OK)
            return fail("symbols", status);
    }
    if (options.json)
        print_json(options.pid, stacks, symbolizer.get());
    else
        print_text(options.pid, stacks, symbolizer.get());
    return kExitOk;
}

int run_live(const StackOptions &options, dwunw_context *context) {
    Process process;
    if (!open_process(context, options.pid, process))
        return kExitFailure;
    return hold(options.hold, options.pid, process.get(), [&](dwunw_stopped *stopped, const LetGo &let_go) {
        std::vector<ThreadStack> stacks;
        const dwunw_status status = take_stopped(context, process.get(), stopped, options.max_frames, stacks);
        let_go();
        return status == DWUNW_OK ? report(options, stacks) : fail(std::to_string(options.pid), status);
    });
}

int run_dead(StackOptions &options, dwunw_context *context) {
    Core core;
    dwunw_core_options core_options{};
    core_options.size = sizeof core_options;
    core_options.path = options.core->c_str();
    core_options.exe = options.exe.empty() ? nullptr : options.exe.c_str();
    core_options.sysroot = options.sysroot.empty() ? nullptr : options.sysroot.c_str();
    const dwunw_status status = dwunw_core_open(context, &core_options, Receive(core));
    if (status == DWUNW_ERR_NOT_ELF)
        return fail(*options.core, "not a core file");
    if (status != DWUNW_OK)
        return fail(*options.core, status);
    options.pid = dwunw_core_pid(core.get());
    std::vector<ThreadStack> stacks;
    take_core(context, core.get(), options.max_frames, stacks);
    return report(options, stacks);
}

int run_stack(StackOptions options) {
    // Frames refer to modules, which the context owns: so it must end last.
    Context context;
    if (const dwunw_status status = dwunw_init(nullptr, Receive(context)); status != DWUNW_OK)
        return fail("start", status);
    return options.core ? run_dead(options, context.get()) : run_live(options, context.get());
}

} // namespace

void add_stack_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<StackOptions>();
    CLI::App *command = app.add_subcommand("stack", "Print the stack of every thread of a process");
    CLI::Option_group *const target = command->add_option_group("Of whom");
    CLI::Option *const pid =
        target->add_option("-p,--pid", options->pid, "the process")->type_name("PID")->check(CLI::Range(1, INT32_MAX));
    CLI::Option *const core =
        target->add_option("--core", options->core, "a core file instead of a process")->type_name("FILE");
    target->require_option(1);
    command->add_option("--exe", options->exe, "the core's program, if it is not at the path in the core")
        ->type_name("FILE")
        ->needs(core);
    command->add_option("--sysroot", options->sysroot, "the root folder of the core's files")
        ->type_name("DIR")
        ->needs(core);
    command->add_option("-n", options->max_frames, "at most this many frames a thread; 0: no limit")
        ->type_name("FRAMES")
        ->check(CLI::Range(uint64_t{0}, kMaxFrames))
        ->capture_default_str();
    command->add_flag("--json", options->json, "print JSON (its fields: dwunw(1))");
    command->add_flag("--no-symbols", options->no_symbols, "addresses and modules only");
    for (CLI::Option *option : add_hold_options(*command, options->hold))
        option->needs(pid);
    command->callback([options, &exit_code] { exit_code = run_stack(*options); });
}

} // namespace dwunw_tool
