// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwunw_table.h"

#include "command_lines.h"

#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <stdexcept>

namespace table_readelf {
namespace {

// "3020 3026 rsp+16 c-8 s"
bool parse_row(std::string_view line, Row &row, Rules &rules) {
    const char *end = line.data() + line.size();
    auto [at, error] = std::from_chars(line.data(), end, row.start, 16);
    if (error != std::errc() || at == end || *at != ' ')
        return false;
    const auto second = std::from_chars(at + 1, end, row.end, 16);
    if (second.ec != std::errc() || second.ptr == end || *second.ptr != ' ')
        return false;
    row.rule = rules.number(line.substr(static_cast<size_t>(second.ptr + 1 - line.data())));
    return true;
}

void parse_summary(const std::string &line, DwunwTable &table) {
    DwunwTable::Refusal refusal{};
    int read = 0;
    if (std::sscanf(line.c_str(), "FDEs %" SCNu64, &table.fdes) == 1 ||
        std::sscanf(line.c_str(), "tombstones %" SCNu64, &table.tombstones) == 1)
        return;
    if (std::sscanf(line.c_str(), "refused at section offset %" SCNx64 ", code at %" SCNx64 ": %n", &refusal.offset,
                    &refusal.start, &read) == 2 &&
        read != 0) {
        refusal.reason = line.substr(static_cast<size_t>(read));
        table.refusals.push_back(std::move(refusal));
    }
}

} // namespace

DwunwTable read_dwunw(const std::string &dwunw, const std::string &path, Rules &rules) {
    DwunwTable table;
    std::string odd;
    const int status = run_command({dwunw, "table", path}, [&](std::string_view line) {
        Row row{};
        if (parse_row(line, row, rules))
            table.rows.push_back(row);
        else
            odd = line;
    });
    if (status != 0) {
        // "dwunw: FILE: reason"
        const size_t reason = odd.rfind(": ");
        table.error = reason == std::string::npos ? "status " + std::to_string(status) : odd.substr(reason + 2);
        return table;
    }
    if (!odd.empty())
        throw std::runtime_error("not a row of dwunw table: " + odd);
    const int summary = run_command({dwunw, "table", "--summary", path},
                                    [&](std::string_view line) { parse_summary(std::string(line), table); });
    if (summary != 0)
        throw std::runtime_error("dwunw table --summary: status " + std::to_string(summary));
    return table;
}

} // namespace table_readelf
