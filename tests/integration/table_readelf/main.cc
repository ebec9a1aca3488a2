// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// table_readelf [options] FILE|DIRECTORY…
//
// `dwunw table` beside `readelf --debug-dump=frames-interp`, for every x86-64 ELF file named or found: the CFA, the
// return address and rbp, row for row (compare.cc says which rows). Prints what differs, what readelf got wrong by
// the judge's account (judge.h), what dwunw refused, and counts. Fails where a row differs, and where an argument gave
// too few rows: an empty comparison proves nothing.
#include "compare.h"
#include "elf_files.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <elfutils/libdw.h>
#include <exception>
#include <getopt.h>
#include <mutex>
#include <thread>

namespace table_readelf {
namespace {

constexpr char kUsage[] =
    "usage: table_readelf [--dwunw FILE] [--readelf FILE] [--rows N] [--every N] [--jobs N] [--judge-all] [--verbose]\n"
    "                     FILE|DIRECTORY...\n"
    "  --rows N      each argument has to give N rows at least\n"
    "  --every N     of a directory's files take each Nth, in the order of their sizes\n"
    "  --jobs N      files compared at once\n"
    "  --judge-all   let the judge (libdw) confirm every row, too\n"
    "  --verbose     a line for each file\n";

struct Options {
    Tools tools;
    uint64_t rows = 1;
    size_t every = 1;
    unsigned jobs = std::max(1U, std::thread::hardware_concurrency());
    bool verbose = false;
    std::vector<std::string> paths;
};

struct Totals {
    uint64_t files = 0, no_cfi = 0, fdes = 0, fdes_eh = 0, covered = 0, repeated = 0, overlapping = 0, tombstones = 0;
    uint64_t rows = 0, judged = 0, readelf_wrong = 0, refused = 0, messages = 0, different = 0;
    std::map<std::string, uint64_t> no_cfi_reasons;

    void add(const Comparison &one) {
        if (one.no_cfi) {
            ++no_cfi;
            ++no_cfi_reasons[one.no_cfi_reason];
        } else {
            ++files;
        }
        fdes += one.fdes;
        fdes_eh += one.fdes_eh;
        covered += one.covered;
        repeated += one.repeated;
        overlapping += one.overlapping;
        tombstones += one.tombstones;
        rows += one.rows;
        judged += one.judged;
        readelf_wrong += one.readelf_wrong.size();
        refused += one.refused.size();
        messages += one.messages.size();
        different += one.different.size();
    }

    Totals &operator+=(const Totals &other) {
        for (const auto &[reason, count] : other.no_cfi_reasons)
            no_cfi_reasons[reason] += count;
        for (const auto member :
             {&Totals::files, &Totals::no_cfi, &Totals::fdes, &Totals::fdes_eh, &Totals::covered, &Totals::repeated,
              &Totals::overlapping, &Totals::tombstones, &Totals::rows, &Totals::judged, &Totals::readelf_wrong,
              &Totals::refused, &Totals::messages, &Totals::different})
            this->*member += other.*member;
        return *this;
    }
};

void print_some(const char *what, const std::vector<std::string> &lines, size_t most) {
    for (size_t i = 0; i < lines.size() && i < most; ++i)
        std::printf("    %s: %s\n", what, lines[i].c_str());
    if (lines.size() > most)
        std::printf("    %s: … %zu in all\n", what, lines.size());
}

void print_file(const std::string &path, const Comparison &one, bool always) {
    if (!always && one.agrees() && one.readelf_wrong.empty() && one.refused.empty() && one.messages.empty())
        return;
    std::printf("%s: %" PRIu64 " FDEs, %" PRIu64 " rows, %zu different\n", path.c_str(), one.fdes, one.rows,
                one.different.size());
    constexpr size_t kShown = 10;
    print_some("different", one.different, kShown);
    print_some("readelf wrong", one.readelf_wrong, kShown);
    print_some("readelf says", one.messages, kShown);
    print_some("refused", one.refused, one.refused.size());
    std::fflush(stdout);
}

// Compares the files, the largest first, and adds up.
Totals compare_all(const Options &options, const std::vector<ElfFile> &files, bool print_each) {
    Totals totals;
    std::mutex mutex; // of totals and the output
    std::atomic<size_t> next = 0;
    const auto work = [&] {
        for (size_t i = next++; i < files.size(); i = next++) {
            Comparison one;
            try {
                one = compare(options.tools, files[i].path);
            } catch (const std::exception &error) {
                one.different.push_back(error.what());
            }
            const std::lock_guard lock(mutex);
            totals.add(one);
            print_file(files[i].path, one, print_each);
        }
    };
    std::vector<std::jthread> others;
    for (unsigned job = 1; job < options.jobs; ++job)
        others.emplace_back(work);
    work();
    others.clear();
    return totals;
}

void print_totals(const Totals &totals, const ElfFiles &files, double seconds) {
    const auto line = [](const char *what, uint64_t count) { std::printf("%-46s %12" PRIu64 "\n", what, count); };
    std::puts("");
    line("files compared", totals.files);
    line("files without CFI, by readelf and dwunw alike", totals.no_cfi);
    for (const auto &[kind, count] : files.other)
        line(("files left out: " + kind).c_str(), count);
    line("names of files already met (links)", files.links);
    line("FDEs in .eh_frame", totals.fdes_eh);
    line("FDEs in .debug_frame", totals.fdes - totals.fdes_eh);
    line("  tombstones", totals.tombstones);
    line("  left out of .debug_frame: .eh_frame covers", totals.covered);
    line("  repeated at one start", totals.repeated);
    line("  cut short by another that begins inside", totals.overlapping);
    line("rows", totals.rows);
    if (totals.judged != 0)
        line("rows confirmed by the judge", totals.judged);
    line("refused, by libdw as well", totals.refused);
    line("readelf's complaints", totals.messages);
    line("readelf wrong, by the judge", totals.readelf_wrong);
    line("different", totals.different);
    std::printf("%-46s %12.1f\n", "seconds", seconds);
    if (totals.no_cfi != 0)
        std::puts("\nfiles without CFI, in the words of each:");
    for (const auto &[reason, count] : totals.no_cfi_reasons)
        std::printf("%6" PRIu64 "  %s\n", count, reason.c_str());
}

bool run(const Options &options) {
    const auto begin = std::chrono::steady_clock::now();
    ElfFiles files;
    Totals totals;
    bool enough = true;
    for (const std::string &path : options.paths) {
        files.comparable.clear();
        files.add(path);
        // Of equal files the order is their names': the choice below is the same in each run.
        std::ranges::sort(files.comparable, [](const ElfFile &a, const ElfFile &b) {
            return a.size != b.size ? a.size > b.size : a.path < b.path;
        });
        const bool named = files.comparable.size() == 1 && files.comparable.front().path == path;
        std::vector<ElfFile> chosen;
        for (size_t i = 0; i < files.comparable.size(); i += named ? 1 : options.every)
            chosen.push_back(files.comparable[i]);
        const Totals of_path = compare_all(options, chosen, named || options.verbose);
        if (of_path.rows < options.rows) {
            std::printf("%s: %" PRIu64 " rows, fewer than %" PRIu64 "\n", path.c_str(), of_path.rows, options.rows);
            enough = false;
        }
        totals += of_path;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    print_totals(totals, files, took.count());
    return enough && totals.different == 0;
}

} // namespace
} // namespace table_readelf

int main(int argc, char **argv) try {
    table_readelf::Options options;
    const option known[] = {{"dwunw", required_argument, nullptr, 'd'}, {"readelf", required_argument, nullptr, 'r'},
                            {"rows", required_argument, nullptr, 'n'},  {"every", required_argument, nullptr, 'e'},
                            {"jobs", required_argument, nullptr, 'j'},  {"judge-all", no_argument, nullptr, 'a'},
                            {"verbose", no_argument, nullptr, 'v'},     {nullptr, 0, nullptr, 0}};
    for (int c; (c = ::getopt_long(argc, argv, "", known, nullptr)) != -1;) {
        switch (c) {
        case 'd':
            options.tools.dwunw = optarg;
            break;
        case 'r':
            options.tools.readelf = optarg;
            break;
        case 'n':
            options.rows = std::strtoull(optarg, nullptr, 10);
            break;
        case 'e':
            options.every = std::max<size_t>(1, std::strtoull(optarg, nullptr, 10));
            break;
        case 'j':
            options.jobs = std::max(1U, static_cast<unsigned>(std::strtoul(optarg, nullptr, 10)));
            break;
        case 'a':
            options.tools.judge_all = true;
            break;
        case 'v':
            options.verbose = true;
            break;
        default:
            std::fputs(table_readelf::kUsage, stderr);
            return 2;
        }
    }
    options.paths.assign(argv + optind, argv + argc);
    if (options.paths.empty()) {
        std::fputs(table_readelf::kUsage, stderr);
        return 2;
    }
    ::elf_version(EV_CURRENT);
    return table_readelf::run(options) ? 0 : 1;
} catch (const std::exception &error) {
    std::fprintf(stderr, "table_readelf: %s\n", error.what());
    return 2;
}
