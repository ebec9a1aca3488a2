// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// bench_table FILE…: compiles each file's table, and looks addresses up in it.
//
// In a child for each file: the shortest of five builds; the table's size; the largest growth of the child's memory
// (`peak`: the section's bytes, the table, and the memory of building); and the time of a lookup by dwunw_table_lookup,
// with 64 addresses again and again (`hot`), and with a million at random. Prints JSON. Skips a file without CFI.
#include "corpus.h"

#include <dwunw/table.h>

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <random>

namespace dwunw_bench {
namespace {

constexpr int kBuilds = 5;
constexpr size_t kLookups = 1'000'000;

uint64_t from_status(const std::string &field) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with(field))
            return std::stoull(line.substr(field.size())) * 1024;
    return 0;
}

double lookup_ns(const dwunw_table *table, const std::vector<uint64_t> &addresses) {
    dwunw_row row{};
    row.size = sizeof(row);
    uint64_t found = 0;
    auto pass = [&] {
        for (size_t i = 0; i < kLookups; ++i)
            found += dwunw_table_lookup(table, addresses[i % addresses.size()], &row) == DWUNW_OK;
    };
    pass();
    const auto start = std::chrono::steady_clock::now();
    pass();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    if (found != 2 * kLookups)
        fail("an address of a row was not found");
    return took.count() / kLookups;
}

std::vector<uint64_t> addresses_of(const dwunw_table *table, uint64_t rows, size_t count) {
    std::mt19937_64 random(1);
    std::vector<uint64_t> addresses(count);
    dwunw_row row{};
    row.size = sizeof(row);
    for (uint64_t &address : addresses) {
        if (dwunw_table_get_row(table, random() % rows, &row) != DWUNW_OK)
            fail("no such row");
        address = row.start + random() % (row.end - row.start);
    }
    return addresses;
}

nlohmann::ordered_json measure(const char *file) {
    const uint64_t before = from_status("VmRSS:");
    dwunw_context *context = nullptr;
    if (dwunw_init(nullptr, &context) != DWUNW_OK)
        fail("dwunw_init");
    dwunw_table_summary best{};
    dwunw_table *table = nullptr;
    uint64_t peak = 0;
    for (int i = 0; i < kBuilds; ++i) {
        dwunw_table_close(table);
        if (dwunw_table_open(context, file, &table) != DWUNW_OK)
            return nullptr;
        if (i == 0)
            peak = from_status("VmHWM:") - before;
        dwunw_table_summary summary{};
        summary.size = sizeof(summary);
        if (dwunw_table_get_summary(table, &summary) != DWUNW_OK || summary.rows == 0)
            return nullptr;
        if (i == 0 || summary.build_ns < best.build_ns)
            best = summary;
    }
    return {{"file", file},
            {"fdes", best.fdes},
            {"refused", best.refused},
            {"rows", best.rows},
            {"rules", best.rules},
            {"bytes", best.bytes},
            {"build_ns", best.build_ns},
            {"peak", peak},
            {"hot_ns", lookup_ns(table, addresses_of(table, best.rows, 64))},
            {"random_ns", lookup_ns(table, addresses_of(table, best.rows, kLookups))}};
}

int run(int count, char **files) {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (int i = 0; i < count; ++i) {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0)
            fail("no pipe");
        const pid_t child = ::fork();
        if (child == 0) {
            const std::string text = measure(files[i]).dump();
            ::_exit(::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
        }
        ::close(ends[1]);
        std::string text(1 << 16, '\0');
        text.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(ends[0], text.data(), text.size()))));
        ::close(ends[0]);
        int status = 0;
        ::waitpid(child, &status, 0);
        if (status != 0)
            fail(std::string(files[i]) + ": failed");
        if (auto one = nlohmann::ordered_json::parse(text); !one.is_null())
            out.push_back(std::move(one));
    }
    std::printf("%s\n", out.dump(2).c_str());
    return 0;
}

} // namespace
} // namespace dwunw_bench

int main(int argc, char **argv) {
    if (argc < 2)
        dwunw_bench::fail("usage: bench_table FILE…");
    return dwunw_bench::run(argc - 1, argv + 1);
}
