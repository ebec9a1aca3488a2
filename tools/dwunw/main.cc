// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw: complete user-space call stacks, on the command line. Each command has its own file or folder.
#include "command.h"
#include "output.h"

#include <cstdio>
#include <cstring>

namespace dwunw_tool {
namespace {

std::string version() {
    return "dwunw " + std::to_string(DWUNW_VERSION_MAJOR) + "." + std::to_string(DWUNW_VERSION_MINOR) + "." +
           std::to_string(DWUNW_VERSION_PATCH);
}

int run(int argc, char **argv) {
    begin_output();
    // `memleak … -- COMMAND ARGS…`: what follows belongs to another program.
    std::vector<std::string> rest;
    if (argc > 1 && std::strcmp(argv[1], "memleak") == 0)
        for (int i = 2; i < argc; ++i)
            if (std::strcmp(argv[i], "--") == 0) {
                rest.assign(argv + i + 1, argv + argc);
                argc = i;
            }
    CLI::App app("Complete user-space call stacks from DWARF call-frame information.", "dwunw");
    app.set_version_flag("--version", version());
    app.require_subcommand(1);
    app.failure_message(CLI::FailureMessage::simple);

    int exit_code = kExitOk;
    add_stack_command(app, exit_code);
    add_core_command(app, exit_code);
    add_table_command(app, exit_code);
    add_memleak_command(app, rest, exit_code);

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError &error) {
        // --help and --version arrive here, too, with code 0.
        if (error.get_exit_code() == 0) {
            app.exit(error);
            return finish_output() ? kExitOk : kExitFailure;
        }
        std::fprintf(stderr, "dwunw: %s\nTry 'dwunw --help'.\n", printable(error.what()).c_str());
        return kExitUsage;
    }
    return finish_output() ? exit_code : kExitFailure;
}

} // namespace

int fail(const std::string &thing, const std::string &problem) {
    std::fprintf(stderr, "dwunw: %s: %s\n", printable(thing).c_str(), printable(problem).c_str());
    return kExitFailure;
}

int fail(const std::string &thing, dwunw_status status) {
    return fail(thing, std::string(dwunw_status_string(status)));
}

} // namespace dwunw_tool

int main(int argc, char **argv) try { return dwunw_tool::run(argc, argv); } catch (const std::exception &error) {
    std::fprintf(stderr, "dwunw: %s\n", dwunw_tool::printable(error.what()).c_str());
    return dwunw_tool::kExitFailure;
}
