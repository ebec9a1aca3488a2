// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/options.h"

#include <map>

namespace dwunw_tool::memleak {

namespace {

// CLI11 makes a large number of −1.
std::string refuse_minus(const std::string &text) {
    return text.starts_with('-') ? text + " is negative" : std::string();
}

} // namespace

void add_options(CLI::App &command, Options &options) {
    const CLI::Validator not_negative(refuse_minus, "");
    const CLI::Range positive(uint64_t(1), uint64_t(INT32_MAX));
    command.add_option("-p,--pid", options.pids, "Watch this process; may be given several times")
        ->check(CLI::Range(1, INT32_MAX))
        ->type_name("PID")
        ->allow_extra_args(false);
    command.add_option("--comm", options.comm, "Watch every process of this name, also later ones")->type_name("NAME");
    command.add_option("--cgroup", options.cgroup, "Watch every process of this cgroup, also later ones")
        ->type_name("PATH");
    command
        .add_option_function<std::string>(
            "-c,--command", [&options](const std::string &line) { options.command = CLI::detail::split_up(line); },
            "Run this command line, and watch it; -- COMMAND ARGS… does the same, word by word")
        ->type_name("COMMAND");
    command.add_flag("--follow", options.follow, "Watch children, too, and the programs they execute");
    command.add_flag("-a,--show-allocs", options.show_blocks, "Show each block with its address");
    command.add_option("-o,--older", options.older_ms, "Only blocks of at least this age (500)")
        ->check(not_negative)
        ->type_name("MS");
    command.add_option("-s,--sample-rate", options.sample_rate, "Record one allocation in N, at random")
        ->check(positive)
        ->type_name("N");
    command
        .add_option("--sample-bytes", options.sample_bytes, "Record one byte in N on average, and the block it lies in")
        ->check(CLI::Range(uint64_t(1), uint64_t(1) << 40))
        ->type_name("N");
    command.add_option("-T,--top", options.top, "Print so many stacks (10)")->check(positive)->type_name("N");
    command.add_option("-z,--min-size", options.min_size, "Only blocks of at least this size")
        ->check(not_negative)
        ->type_name("BYTES");
    command.add_option("-Z,--max-size", options.max_size, "Only blocks of at most this size")
        ->check(not_negative)
        ->type_name("BYTES");
    command.add_option("-O,--obj", options.object, "Probe only this file, by its path or name")->type_name("FILE");
    command.add_option("-S,--symbols-prefix", options.prefix, "Probe only functions with this prefix")
        ->type_name("PREFIX");
    command.add_option("--max-memory", options.max_memory, "Most memory for blocks (a tenth of the machine's)")
        ->transform(CLI::AsSizeValue(false))
        ->check(not_negative)
        ->type_name("BYTES");
    command
        .add_option("--max-overhead", options.max_overhead,
                    "Most percent of a core that the probes may cost: records less, and ends if that is not enough")
        ->check(CLI::PositiveNumber)
        ->type_name("PCT");
    const std::map<std::string, Sort> sorts{{"bytes", Sort::kBytes},
                                            {"count", Sort::kCount},
                                            {"age", Sort::kAge},
                                            {"growth", Sort::kGrowth},
                                            {"score", Sort::kScore}};
    command.add_option("--sort", options.sort, "Order of the stacks: bytes, count, age, growth or score (bytes)")
        ->transform(CLI::CheckedTransformer(sorts))
        ->type_name("KEY");
    command.add_flag("--diff", options.diff, "Show only stacks that have changed since the report before");
    command.add_option("--diff-from", options.diff_from, "Show only stacks that have changed since a saved report")
        ->type_name("FILE");
    command.add_option("--save", options.save, "Save each report to this file, for --diff-from")->type_name("FILE");
    command.add_flag("-v,--verbose", options.verbose, "Say which functions are probed, and why there");
    command.add_flag("--strict", options.strict, "Fail if anything was lost");
    command.add_option("--fail-on", options.fail_on, "Fail if at least so many bytes are outstanding at the end")
        ->transform(CLI::AsSizeValue(false))
        ->check(not_negative)
        ->type_name("BYTES");
    command.add_option("--error-exitcode", options.error_exitcode, "The exit status for --fail-on (1)")
        ->check(CLI::Range(1, 255))
        ->type_name("N");
    command.add_option("--suppressions", options.suppressions, "A file of stacks to leave out, as LeakSanitizer's")
        ->type_name("FILE");
}

std::string check(Options &options) {
    const int targets =
        !options.pids.empty() + !options.comm.empty() + !options.cgroup.empty() + !options.command.empty();
    if (targets == 0)
        return "what shall be watched? Give -p PID, --comm NAME, --cgroup PATH, or a command after --";
    if (targets > 1)
        return "-p, --comm, --cgroup and a command exclude each other";
    if (options.comm.size() > 15)
        return "--comm " + options.comm + ": a process's name has at most 15 bytes";
    if (options.min_size > options.max_size)
        return "the least size (-z) is greater than the largest (-Z)";
    if (options.sample_rate > 1 && options.sample_bytes > 0)
        return "-s and --sample-bytes exclude each other";
    if (options.older_ms > UINT64_MAX / 1'000'000)
        return "--older " + std::to_string(options.older_ms) + " is too long";
    return {};
}

} // namespace dwunw_tool::memleak
