// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The options of `dwunw memleak`: what the command line makes of them, and what check() refuses.
#include "memleak/options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace dwunw_tool::memleak {
namespace {

using Words = std::vector<std::string>;

// Throws CLI::ParseError.
Options parsed(Words words) {
    Options options;
    CLI::App app;
    add_options(app, options);
    std::reverse(words.begin(), words.end()); // as CLI11 wants them
    app.parse(words);
    return options;
}

std::string problem(const Words &words) {
    Options options = parsed(words);
    return check(options);
}

TEST(MemleakOptions, DefaultsAreThoseOfTheManual) {
    const Options options = parsed({"-p", "1"});
    EXPECT_EQ(options.pids, std::vector<int32_t>{1});
    EXPECT_EQ(options.interval, 5u);
    EXPECT_EQ(options.reports, std::nullopt);
    EXPECT_EQ(options.older_ms, 500u);
    EXPECT_EQ(options.sample_rate, 1u);
    EXPECT_EQ(options.top, 10u);
    EXPECT_EQ(options.min_size, 0u);
    EXPECT_EQ(options.max_size, UINT64_MAX);
    EXPECT_EQ(options.prefix, std::nullopt);
    EXPECT_EQ(options.error_exitcode, 1);
    EXPECT_FALSE(options.follow || options.show_blocks || options.strict || options.verbose);
}

TEST(MemleakOptions, TheLettersAreMemleaks) {
    const Options options = parsed({"-p", "1",  "-p", "2",  "-a", "-o", "0",         "-s", "3",   "-T",
                                    "4",  "-z", "5",  "-Z", "6",  "-O", "libc.so.6", "-S", "je_", "-v"});
    EXPECT_EQ(options.pids, (std::vector<int32_t>{1, 2}));
    EXPECT_TRUE(options.show_blocks);
    EXPECT_EQ(options.older_ms, 0u);
    EXPECT_EQ(options.sample_rate, 3u);
    EXPECT_EQ(options.top, 4u);
    EXPECT_EQ(options.min_size, 5u);
    EXPECT_EQ(options.max_size, 6u);
    EXPECT_EQ(options.object, "libc.so.6");
    EXPECT_EQ(options.prefix, "je_");
    EXPECT_TRUE(options.verbose);
}

TEST(MemleakOptions, SizesHaveUnits) {
    EXPECT_EQ(parsed({"-p", "1", "--max-memory", "64M"}).max_memory, uint64_t(64) << 20);
    EXPECT_EQ(parsed({"-p", "1", "--fail-on", "3G"}).fail_on, uint64_t(3) << 30);
}

TEST(MemleakOptions, ACommandLineIsSplitAsAShellWould) {
    EXPECT_EQ(parsed({"-c", "program 'two words' --option"}).command, (Words{"program", "two words", "--option"}));
}

TEST(MemleakOptions, ExactlyOneTarget) {
    const std::vector<Words> targets{{"-p", "1"}, {"--comm", "name"}, {"--cgroup", "path"}, {"-c", "program"}};
    EXPECT_NE(problem({}), "");
    for (size_t i = 0; i < targets.size(); ++i) {
        EXPECT_EQ(problem(targets[i]), "");
        for (size_t k = i + 1; k < targets.size(); ++k) {
            Words both = targets[i];
            both.insert(both.end(), targets[k].begin(), targets[k].end());
            EXPECT_NE(problem(both).find("exclude each other"), std::string::npos) << both[0] << both[2];
        }
    }
}

TEST(MemleakOptions, ANameHasAtMost15Bytes) {
    EXPECT_EQ(problem({"--comm", "fifteen-letters"}), "");
    EXPECT_NE(problem({"--comm", "sixteen--letters"}), "");
}

TEST(MemleakOptions, SizesAreARange) {
    EXPECT_EQ(problem({"-p", "1", "-z", "5", "-Z", "5"}), "");
    EXPECT_NE(problem({"-p", "1", "-z", "6", "-Z", "5"}), "");
}

TEST(MemleakOptions, OneKindOfSampling) {
    EXPECT_EQ(problem({"-p", "1", "-s", "1", "--sample-bytes", "1000"}), "");
    EXPECT_NE(problem({"-p", "1", "-s", "2", "--sample-bytes", "1000"}), "");
}

TEST(MemleakOptions, AnAgeInNanosecondsHas64Bits) {
    EXPECT_EQ(problem({"-p", "1", "-o", "18446744073709"}), "");
    EXPECT_NE(problem({"-p", "1", "-o", "18446744073710"}), "");
}

TEST(MemleakOptions, NumbersOutOfRangeAreRefused) {
    for (const Words &words : std::vector<Words>{{"-p", "0"},
                                                 {"-p", "-1"},
                                                 {"-p", "1x"},
                                                 {"-s", "0"},
                                                 {"-T", "0"},
                                                 {"--sample-bytes", "0"},
                                                 {"--sample-bytes", "1099511627777"},
                                                 {"--error-exitcode", "0"},
                                                 {"--error-exitcode", "256"},
                                                 {"-o", "-1"},
                                                 {"-z", "-1"},
                                                 {"-Z", "-1"},
                                                 {"--fail-on", "-1"},
                                                 {"--max-memory", "-1"},
                                                 {"--sort", "size"},
                                                 {"--max-memory", "x"}})
        EXPECT_THROW(parsed(words), CLI::ParseError) << words[0] << " " << words[1];
}

} // namespace
} // namespace dwunw_tool::memleak
