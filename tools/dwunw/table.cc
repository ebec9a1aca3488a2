// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw table FILE: prints the rows that the library compiles from a file's call-frame information.
#include "command.h"
#include "output.h"

#include <dwunw/table.h>

#include <cerrno>
#include <cinttypes>
#include <cstdlib>

namespace dwunw_tool {
namespace {

using Table = Handle<dwunw_table, dwunw_table_close>;

struct TableOptions {
    std::string file;
    std::string at;
    bool summary = false;
};

std::string register_name(uint32_t arch, uint32_t reg) {
    const char *name = dwunw_register_name(arch, reg);
    return name ? name : "r" + std::to_string(reg);
}

std::string signed_offset(int64_t offset) {
    return (offset < 0 ? "-" : "+") + std::to_string(offset < 0 ? -static_cast<uint64_t>(offset) : offset);
}

std::string cfa_text(uint32_t arch, const dwunw_rule &rule) {
    return rule.kind == DWUNW_RULE_REGISTER ? register_name(arch, rule.reg) + signed_offset(rule.offset) : "exp";
}

std::string register_text(uint32_t arch, const dwunw_rule &rule) {
    switch (rule.kind) {
    case DWUNW_RULE_SAME:
        return "s";
    case DWUNW_RULE_UNDEFINED:
        return "u";
    case DWUNW_RULE_OFFSET:
        return "c" + signed_offset(rule.offset);
    case DWUNW_RULE_VAL_OFFSET:
        return "v" + signed_offset(rule.offset);
    case DWUNW_RULE_REGISTER:
        return register_name(arch, rule.reg);
    case DWUNW_RULE_EXPRESSION:
        return "exp";
    case DWUNW_RULE_VAL_EXPRESSION:
        return "vexp";
    default:
        return "?";
    }
}

void print_row(uint32_t arch, const dwunw_row &row) {
    print("%" PRIx64 " %" PRIx64 " %s %s %s\n", row.start, row.end, cfa_text(arch, row.cfa).c_str(),
          register_text(arch, row.ra).c_str(), register_text(arch, row.fp).c_str());
}

int print_rows(const TableOptions &options, const dwunw_table *table, const dwunw_table_summary &summary) {
    for (uint64_t i = 0; i < summary.rows && !output_is_lost(); i++) {
        dwunw_row row{};
        row.size = sizeof row;
        if (const dwunw_status status = dwunw_table_get_row(table, i, &row); status != DWUNW_OK)
            return fail(options.file, "row " + std::to_string(i) + ": " + dwunw_status_string(status));
        print_row(summary.arch, row);
    }
    return kExitOk;
}

int print_row_at(const TableOptions &options, const dwunw_table *table, const dwunw_table_summary &summary,
                 uint64_t address) {
    dwunw_row row{};
    row.size = sizeof row;
    const dwunw_status status = dwunw_table_lookup(table, address, &row);
    if (status == DWUNW_ERR_NOT_FOUND)
        return fail(options.file, "no call-frame information covers " + options.at);
    if (status != DWUNW_OK)
        return fail(options.file, status);
    print_row(summary.arch, row);
    return kExitOk;
}

int print_summary(const TableOptions &options, const dwunw_table *table, const dwunw_table_summary &summary) {
    print("file         %s\n", printable(options.file).c_str());
    print("FDEs         %" PRIu64 "\n", summary.fdes);
    print("refused      %" PRIu64 "\n", summary.refused);
    print("tombstones   %" PRIu64 "\n", summary.tombstones);
    print("rows         %" PRIu64 "\n", summary.rows);
    print("unique rules %" PRIu64 "\n", summary.rules);
    print("bytes        %" PRIu64 "\n", summary.bytes);
    if (summary.rows != 0)
        print("bytes a row  %.2f\n", static_cast<double>(summary.bytes) / static_cast<double>(summary.rows));
    print("build time   %.3f ms\n", static_cast<double>(summary.build_ns) / 1e6);
    for (uint64_t i = 0; i < summary.refused; i++) {
        dwunw_refusal refusal{};
        refusal.size = sizeof refusal;
        const dwunw_status status = dwunw_table_get_refusal(table, i, &refusal);
        if (status == DWUNW_ERR_NOT_FOUND) {
            print("and %" PRIu64 " more\n", summary.refused - i);
            break;
        }
        if (status != DWUNW_OK)
            return fail(options.file, "refusal " + std::to_string(i) + ": " + dwunw_status_string(status));
        print("refused at section offset 0x%" PRIx64 ", code at 0x%" PRIx64 ": %s\n", refusal.section_offset,
              refusal.start, dwunw_status_string(static_cast<dwunw_status>(refusal.status)));
    }
    return kExitOk;
}

// Parses ELF addresses as the table prints them: hexadecimal, with or without 0x.
bool parse_address(const std::string &text, uint64_t &address) {
    if (text.empty() || text.find_first_not_of("0123456789abcdefABCDEFxX") != std::string::npos)
        return false;
    char *end = nullptr;
    errno = 0;
    address = std::strtoull(text.c_str(), &end, 16);
    return errno == 0 && *end == '\0';
}

std::string check_address(const std::string &text) {
    uint64_t address = 0;
    return parse_address(text, address) ? "" : "not a hexadecimal address: " + text;
}

int run_table(const TableOptions &options) {
    Context context;
    if (const dwunw_status status = dwunw_init(nullptr, Receive(context)); status != DWUNW_OK)
        return fail("start", status);
    Table table;
    if (const dwunw_status status = dwunw_table_open(context.get(), options.file.c_str(), Receive(table));
        status == DWUNW_ERR_INVALID_ARGUMENT)
        return fail(options.file, "a relocatable file: it has no addresses until it is linked");
    else if (status != DWUNW_OK)
        return fail(options.file, status);
    dwunw_table_summary summary{};
    summary.size = sizeof summary;
    if (const dwunw_status status = dwunw_table_get_summary(table.get(), &summary); status != DWUNW_OK)
        return fail(options.file, status);

    if (options.summary)
        return print_summary(options, table.get(), summary);
    if (uint64_t address = 0; !options.at.empty() && parse_address(options.at, address))
        return print_row_at(options, table.get(), summary, address);
    return print_rows(options, table.get(), summary);
}

} // namespace

void add_table_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<TableOptions>();
    CLI::App *command = app.add_subcommand("table", "Print the unwind table compiled from an ELF file");
    command->add_option("FILE", options->file, "an ELF file")->required();
    CLI::Option *at =
        command->add_option("--at", options->at, "only the row that covers this ELF address (hexadecimal)")
            ->type_name("ADDR")
            ->check(check_address);
    command->add_flag("--summary", options->summary, "counts, sizes and refused FDEs instead of rows")->excludes(at);
    command->callback([options, &exit_code] { exit_code = run_table(*options); });
}

} // namespace dwunw_tool
