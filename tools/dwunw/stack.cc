// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw stack -p PID, or --core FILE: every thread's stack. A live target is stopped only while registers and stacks
// are read. Names are looked up after it runs on, from files that stay open.
#include "command.h"
#include "held.h"
#include "output.h"
#include "target.h"

#include <dwunw/core.h>
#include <dwunw/process.h>
#include <dwunw/symbolize.h>
#include <dwunw/unwind.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <optional>
#include <vector>

namespace dwunw_tool {
namespace {

using Core = Handle<dwunw_core, dwunw_core_close>;
using Symbolizer = Handle<dwunw_symbolizer, dwunw_symbolizer_close>;

constexpr uint64_t kDefaultFrames = 256;    // as eu-stack
constexpr uint64_t kMaxFrames = 1ull << 26; // the limit of "unlimited": 3 GiB of frames

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

struct ThreadStack {
    int32_t tid = 0;
    std::string name;
    dwunw_status status = DWUNW_OK; // why the walk ended
    std::vector<dwunw_frame> frames;
};

// Room for the frames of one walk after the other. Only memory that a walk has written to is allocated.
class Room {
  public:
    dwunw_frame *get(size_t count) {
        if (count > count_) {
            frames_.reset();
            frames_ = std::make_unique_for_overwrite<dwunw_frame[]>(count);
            count_ = count;
        }
        return frames_.get();
    }

  private:
    std::unique_ptr<dwunw_frame[]> frames_;
    size_t count_ = 0;
};

// Walks one thread. Without a limit, the room grows until the stack fits.
ThreadStack walk(dwunw_context *context, dwunw_process *process, const dwunw_thread &thread, uint64_t max_frames,
                 Room &room) {
    ThreadStack stack;
    stack.tid = thread.tid;
    stack.name.assign(thread.name, strnlen(thread.name, sizeof thread.name));

    for (uint64_t limit = max_frames ? max_frames : kDefaultFrames;; limit *= 4) {
        limit = std::min(limit, kMaxFrames);
        dwunw_unwind_request request{};
        request.size = sizeof request;
        request.options = DWUNW_UNWIND_READ_PROCESS;
        request.process = process;
        request.regs = &thread.regs;
        request.frames = room.get(limit);
        request.max_frames = limit;
        size_t written = 0;
        stack.status = dwunw_capture(context, &request, &written);
        if (stack.status == DWUNW_ERR_FRAME_LIMIT && max_frames == 0 && limit != kMaxFrames)
            continue;
        stack.frames.assign(request.frames, request.frames + written);
        return stack;
    }
}

// Every thread of a stopped process.
dwunw_status walk_threads(dwunw_context *context, dwunw_process *process, dwunw_stopped *stopped, uint64_t max_frames,
                          std::vector<ThreadStack> &stacks) {
    // The map may have changed since it was read. The process is stopped now, so read it again.
    if (const dwunw_status status = dwunw_process_refresh(process); status != DWUNW_OK)
        return status;
    Room room;
    const size_t count = dwunw_stopped_thread_count(stopped);
    for (size_t i = 0; i < count; i++) {
        dwunw_thread thread{};
        thread.size = sizeof thread;
        const dwunw_status status = dwunw_stopped_thread(stopped, i, &thread);
        if (status == DWUNW_OK)
            stacks.push_back(walk(context, process, thread, max_frames, room));
        else
            stacks.push_back({thread.tid, {}, status, {}});
    }
    return DWUNW_OK;
}

// Walks the threads of a core, in ascending order, as for a process.
void walk_core(dwunw_context *context, dwunw_core *core, uint64_t max_frames, std::vector<ThreadStack> &stacks) {
    Room room;
    const size_t count = dwunw_core_thread_count(core);
    for (size_t i = 0; i < count; i++) {
        dwunw_thread thread{};
        thread.size = sizeof thread;
        if (const dwunw_status status = dwunw_core_thread(core, i, &thread); status == DWUNW_OK)
            stacks.push_back(walk(context, dwunw_core_process(core), thread, max_frames, room));
        else
            stacks.push_back({thread.tid, {}, status, {}});
    }
    std::stable_sort(stacks.begin(), stacks.end(),
                     [](const ThreadStack &a, const ThreadStack &b) { return a.tid < b.tid; });
}

std::optional<dwunw_symbol> symbol_of(dwunw_symbolizer *symbolizer, const dwunw_frame &frame) {
    dwunw_symbol symbol{};
    symbol.size = sizeof symbol;
    if (!symbolizer || dwunw_symbolize_frame(symbolizer, &frame, &symbol) != DWUNW_OK)
        return std::nullopt;
    return symbol;
}

void print_text(const StackOptions &options, const std::vector<ThreadStack> &stacks, dwunw_symbolizer *symbolizer) {
    print("PID %" PRId32 " - process\n", options.pid);
    for (const ThreadStack &stack : stacks) {
        print("TID %" PRId32 ":\n", stack.tid);
        size_t number = 0;
        for (const dwunw_frame &frame : stack.frames) {
            if (output_is_lost())
                return;
            print("#%-2zu 0x%016" PRIx64, number++, frame.pc);
            if (const auto symbol = symbol_of(symbolizer, frame))
                print(" %s+0x%" PRIx64, printable(symbol->name).c_str(), symbol->offset);
            if (frame.module)
                print(" - %s", printable(dwunw_module_path(frame.module)).c_str());
            if (frame.flags & DWUNW_FRAME_FLAG_NO_CODE)
                print(" [no code]");
            // Marks frames that were not found by call-frame information.
            if (frame.source == DWUNW_SOURCE_FRAME_POINTER)
                print(" [frame pointer]");
            else if (frame.source == DWUNW_SOURCE_CODE)
                print(" [code]");
            print("\n");
        }
        if (stack.status != DWUNW_OK)
            print("TID %" PRId32 ": %s\n", stack.tid, dwunw_status_string(stack.status));
    }
}

// Addresses as strings: JSON readers keep numbers as doubles, which end at 2^53.
std::string hex(uint64_t value) {
    char text[19];
    std::snprintf(text, sizeof text, "0x%" PRIx64, value);
    return text;
}

std::string build_id_of(const dwunw_module *module) {
    const uint8_t *bytes = nullptr;
    const size_t length = dwunw_module_build_id(module, &bytes);
    std::string text;
    for (size_t i = 0; i < length; i++) {
        char byte[3];
        std::snprintf(byte, sizeof byte, "%02x", bytes[i]);
        text += byte;
    }
    return text;
}

const char *source_name(uint32_t source) {
    switch (source) {
    case DWUNW_SOURCE_REGISTERS:
        return "registers";
    case DWUNW_SOURCE_CFI:
        return "cfi";
    case DWUNW_SOURCE_INTERPRETER:
        return "interpreter";
    case DWUNW_SOURCE_SIGNAL:
        return "signal";
    case DWUNW_SOURCE_TRAMPOLINE:
        return "trampoline";
    case DWUNW_SOURCE_FRAME_POINTER:
        return "frame-pointer";
    case DWUNW_SOURCE_CODE:
        return "code";
    case DWUNW_SOURCE_CALL:
        return "call";
    default:
        return "unknown";
    }
}

nlohmann::json json_frame(const dwunw_frame &frame, dwunw_symbolizer *symbolizer) {
    nlohmann::json json = {
        {"pc", hex(frame.pc)},
        {"sp", hex(frame.sp)},
        {"source", source_name(frame.source)},
        {"exact_pc", (frame.flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0},
        {"signal", (frame.flags & DWUNW_FRAME_FLAG_SIGNAL) != 0},
        {"no_code", (frame.flags & DWUNW_FRAME_FLAG_NO_CODE) != 0},
        {"cfa_unmentioned", (frame.flags & DWUNW_FRAME_FLAG_CFA_UNMENTIONED) != 0},
    };
    if (frame.module) {
        json["module"] = dwunw_module_path(frame.module);
        json["module_offset"] = hex(frame.module_offset);
        if (std::string build_id = build_id_of(frame.module); !build_id.empty())
            json["build_id"] = std::move(build_id);
    }
    if (const auto symbol = symbol_of(symbolizer, frame)) {
        json["symbol"] = symbol->name;
        json["raw_symbol"] = symbol->raw_name;
        json["symbol_offset"] = symbol->offset;
    }
    return json;
}

// Names are bytes, JSON is UTF-8: bytes that are not UTF-8 become U+FFFD, without an exception. Characters that are not
// ASCII become JSON escapes, which keep the name, and are safe for a terminal.
std::string dump(const nlohmann::json &json) {
    return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

// Writes the frames one by one, a line each: a document of a million frames would take a gigabyte.
void print_json(const StackOptions &options, const std::vector<ThreadStack> &stacks, dwunw_symbolizer *symbolizer) {
    print("{\n  \"pid\": %" PRId32 ",\n  \"threads\": [", options.pid);
    const char *before_thread = "";
    for (const ThreadStack &stack : stacks) {
        print("%s\n    {\n      \"complete\": %s,\n      \"frames\": [", before_thread,
              stack.status == DWUNW_OK ? "true" : "false");
        const char *before_frame = "";
        for (const dwunw_frame &frame : stack.frames) {
            if (output_is_lost())
                return;
            print("%s\n        %s", before_frame, dump(json_frame(frame, symbolizer)).c_str());
            before_frame = ",";
        }
        print("%s],\n      \"name\": %s,\n      \"stopped_by\": %s,\n      \"tid\": %" PRId32 "\n    }",
              stack.frames.empty() ? "" : "\n      ", dump(stack.name).c_str(),
              dump(dwunw_status_string(stack.status)).c_str(), stack.tid);
        before_thread = ",";
    }
    print("%s]\n}\n", stacks.empty() ? "" : "\n  ");
}

int report(const StackOptions &options, const std::vector<ThreadStack> &stacks) {
    Symbolizer symbolizer;
    if (!options.no_symbols) {
        if (const dwunw_status status = dwunw_symbolizer_open(Receive(symbolizer)); status != DWUNW_OK)
            return fail("symbols", status);
    }
    if (options.json)
        print_json(options, stacks, symbolizer.get());
    else
        print_text(options, stacks, symbolizer.get());
    return kExitOk;
}

int run_live(const StackOptions &options, dwunw_context *context) {
    Process process;
    if (!open_process(context, options.pid, process))
        return kExitFailure;
    return hold(options.hold, options.pid, process.get(), [&](dwunw_stopped *stopped, const LetGo &let_go) {
        std::vector<ThreadStack> stacks;
        const dwunw_status status = walk_threads(context, process.get(), stopped, options.max_frames, stacks);
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
    walk_core(context, core.get(), options.max_frames, stacks);
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
