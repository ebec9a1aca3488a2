// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw memleak: outstanding memory by complete stack, of running processes or of a command.
#include "command.h"
#include "memleak/options.h"
#include "memleak/session.h"

#include <memory>

namespace dwunw_tool {

// `rest`: what follows --, a command and its arguments.
void add_memleak_command(CLI::App &app, const std::vector<std::string> &rest, int &exit_code) {
    auto options = std::make_shared<memleak::Options>();
    CLI::App *command =
        app.add_subcommand("memleak", "Outstanding memory by complete stack, of processes or of a command");
    memleak::add_options(*command, *options);
    command->add_option("interval", options->interval, "Seconds between two reports (5)")
        ->check(CLI::Range(uint64_t(1), uint64_t(INT32_MAX)));
    command->add_option("count", options->reports, "The number of reports; without it, until the end")
        ->check(CLI::Range(uint64_t(1), uint64_t(INT32_MAX)));
    command->callback([options, rest, &exit_code] {
        if (!rest.empty() && !options->command.empty())
            throw CLI::ValidationError("-c and -- exclude each other");
        if (!rest.empty())
            options->command = rest;
        if (const std::string problem = memleak::check(*options); !problem.empty())
            throw CLI::ValidationError(problem);
        memleak::Session session(*options);
        exit_code = session.run();
    });
}

} // namespace dwunw_tool
