// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/table.h>

#include "abi/guarded.h"
#include "abi/sized_structs.h"
#include "arch/arch.h"
#include "process/module.h"
#include "unwind/module_cfi.h"

#include <elf.h>

#include <algorithm>
#include <chrono>

using dwunw::unwind::CfaKind;
using dwunw::unwind::FdeList;
using dwunw::unwind::Refusal;
using dwunw::unwind::Rule;
using dwunw::unwind::Table;
using dwunw::unwind::ValueKind;

struct dwunw_table {
    dwunw_table(std::shared_ptr<const dwunw::ByteSource> source, int fd) : file(std::move(source), fd, std::nullopt) {}

    dwunw::process::Module file;
    std::shared_ptr<const dwunw::unwind::ModuleCfi> cfi;
    const Table *table = nullptr; // owned by `cfi`
    // The rows as they are shown. Two rules that differ only inside an expression look equal, and adjacent equal rows
    // of one FDE become one row.
    struct ShownRow {
        dwunw::LinkAddr start;
        dwunw::LinkAddr end;
        const Rule *rule;
    };
    std::vector<ShownRow> rows;    // ascending
    std::vector<Refusal> refusals; // at most as many as the table keeps
    uint64_t refused = 0;
    uint64_t tombstones = 0;
    uint64_t build_ns = 0;
};

namespace dwunw::capi {
namespace {

dwunw_rule cfa_rule(const Rule &rule) {
    if (rule.cfa_kind == CfaKind::kRegister)
        return {DWUNW_RULE_REGISTER, rule.cfa_reg, rule.cfa_offset};
    return {DWUNW_RULE_EXPRESSION, 0, 0};
}

dwunw_rule value_rule(ValueKind kind, uint8_t reg, int32_t offset) {
    switch (kind) {
    case ValueKind::kSame:
        return {DWUNW_RULE_SAME, 0, 0};
    case ValueKind::kUndefined:
        return {DWUNW_RULE_UNDEFINED, 0, 0};
    case ValueKind::kAtCfa:
        return {DWUNW_RULE_OFFSET, 0, offset};
    case ValueKind::kCfaPlus:
        return {DWUNW_RULE_VAL_OFFSET, 0, offset};
    case ValueKind::kRegister:
        return {DWUNW_RULE_REGISTER, reg, 0};
    case ValueKind::kAtRegister: // written as an expression by DWARF
    case ValueKind::kExpression:
        return {DWUNW_RULE_EXPRESSION, 0, 0};
    case ValueKind::kValExpression:
        return {DWUNW_RULE_VAL_EXPRESSION, 0, 0};
    }
    return {DWUNW_RULE_SAME, 0, 0};
}

struct ShownRule {
    explicit ShownRule(const Rule &rule)
        : cfa(cfa_rule(rule)), ra(value_rule(rule.ra_kind, rule.ra_reg, rule.ra_offset)),
          fp(value_rule(rule.fp_kind, rule.fp_reg, rule.fp_offset)) {}

    bool operator==(const ShownRule &other) const {
        const auto same = [](const dwunw_rule &a, const dwunw_rule &b) {
            return a.kind == b.kind && a.reg == b.reg && a.offset == b.offset;
        };
        return same(cfa, other.cfa) && same(ra, other.ra) && same(fp, other.fp);
    }

    dwunw_rule cfa, ra, fp;
};

std::vector<dwunw_table::ShownRow> shown_rows(const FdeList &index, const Table &table) {
    std::vector<dwunw_table::ShownRow> rows;
    const auto fdes = index.fdes();
    for (size_t i = 0; i < fdes.size(); ++i) {
        const LinkAddr end = i + 1 < fdes.size() ? std::min(fdes[i].end, fdes[i + 1].start) : fdes[i].end;
        const size_t first = rows.size();
        for (LinkAddr at = fdes[i].start; at < end;) {
            const Table::Row row = table.row_at(at);
            const LinkAddr row_end = std::min(row.end, end);
            if (row.rule != nullptr) {
                if (rows.size() > first && rows.back().end == at &&
                    (rows.back().rule == row.rule || ShownRule(*rows.back().rule) == ShownRule(*row.rule)))
                    rows.back().end = row_end;
                else
                    rows.push_back({at, row_end, row.rule});
            }
            at = row_end;
        }
    }
    return rows;
}

void fill_row(const dwunw_table::ShownRow &row, dwunw_row *out) {
    const ShownRule rule(*row.rule);
    out->start = row.start.value;
    out->end = row.end.value;
    out->cfa = rule.cfa;
    out->ra = rule.ra;
    out->fp = rule.fp;
}

dwunw_status open_table(const char *path, dwunw_table **out) {
    auto source = process::FileSource::open(path);
    if (!source)
        return source.error().status;
    const int fd = source->fd();
    auto table = std::make_unique<dwunw_table>(std::make_shared<process::FileSource>(std::move(*source)), fd);
    if (auto &image = table->file.image(); !image)
        return image.error().status;
    else if (image->type() == ET_REL)
        return DWUNW_ERR_INVALID_ARGUMENT;
    auto cfi = table->file.whole_cfi();
    if (!cfi)
        return cfi.error().status;
    const auto begin = std::chrono::steady_clock::now();
    const auto compiled = (*cfi)->compile();
    const auto took = std::chrono::steady_clock::now() - begin;
    table->build_ns = static_cast<uint64_t>(std::chrono::nanoseconds(took).count());
    if (!compiled)
        return compiled.error().status;
    table->table = *compiled;
    const auto fdes = (*cfi)->fdes();
    if (!fdes)
        return fdes.error().status;
    table->rows = shown_rows(**fdes, *table->table);
    table->tombstones = (*fdes)->tombstone_count();
    table->refusals = (*fdes)->refusals();
    const auto &refused = table->table->refusals();
    table->refusals.insert(table->refusals.end(), refused.begin(), refused.end());
    table->refused = (*fdes)->refusal_count() + table->table->refusal_count();
    table->cfi = std::move(*cfi);
    *out = table.release();
    return DWUNW_OK;
}

} // namespace
} // namespace dwunw::capi

extern "C" dwunw_status dwunw_table_open(struct dwunw_context *context, const char *path, struct dwunw_table **out) {
    if (context == nullptr || path == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return dwunw::capi::open_table(path, out); });
}

extern "C" void dwunw_table_close(struct dwunw_table *table) { delete table; }

extern "C" dwunw_status dwunw_table_get_summary(const struct dwunw_table *table, struct dwunw_table_summary *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (table == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const Table &compiled = *table->table;
    out->arch = compiled.arch()->id;
    out->fdes = compiled.fde_count();
    out->refused = table->refused;
    out->tombstones = table->tombstones;
    out->rows = table->rows.size();
    out->rules = compiled.rule_count();
    out->bytes = compiled.memory_bytes();
    out->build_ns = table->build_ns;
    return DWUNW_OK;
}

extern "C" dwunw_status dwunw_table_get_row(const struct dwunw_table *table, uint64_t index, struct dwunw_row *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (table == nullptr || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    if (index >= table->rows.size())
        return DWUNW_ERR_NOT_FOUND;
    dwunw::capi::fill_row(table->rows[index], &*out);
    return DWUNW_OK;
}

extern "C" dwunw_status dwunw_table_lookup(const struct dwunw_table *table, uint64_t address, struct dwunw_row *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (table == nullptr || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const auto after =
        std::upper_bound(table->rows.begin(), table->rows.end(), dwunw::LinkAddr(address),
                         [](dwunw::LinkAddr value, const dwunw_table::ShownRow &row) { return value < row.start; });
    if (after == table->rows.begin() || dwunw::LinkAddr(address) >= std::prev(after)->end)
        return DWUNW_ERR_NOT_FOUND;
    dwunw::capi::fill_row(*std::prev(after), &*out);
    return DWUNW_OK;
}

extern "C" dwunw_status dwunw_table_get_refusal(const struct dwunw_table *table, uint64_t index,
                                                struct dwunw_refusal *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (table == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    if (index >= table->refusals.size())
        return DWUNW_ERR_NOT_FOUND;
    const Refusal &refusal = table->refusals[index];
    out->status = static_cast<uint32_t>(refusal.error.status);
    out->section_offset = refusal.section_offset;
    out->start = refusal.start.value;
    return DWUNW_OK;
}

extern "C" const char *dwunw_register_name(uint32_t arch, uint32_t reg) {
    const dwunw::arch::Arch *found = dwunw::arch::find_by_id(arch);
    return found != nullptr && reg < found->register_count ? found->names[reg] : nullptr;
}
