// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/table.h>

#include "arch/arch.h"
#include "capi/guarded.h"
#include "elf/image.h"
#include "process/file_source.h"
#include "process/module_cfi_input.h"
#include "unwind/module_cfi.h"

#include <chrono>
#include <limits>

using dwunw::unwind::CfaKind;
using dwunw::unwind::Rule;
using dwunw::unwind::Table;
using dwunw::unwind::ValueKind;

struct dwunw_table {
    std::unique_ptr<dwunw::unwind::ModuleCfi> cfi;
    std::vector<uint32_t> rows; // indices of the table's rows that have a rule
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
    case ValueKind::kAtRegister: // written as an expression
    case ValueKind::kExpression:
        return {DWUNW_RULE_EXPRESSION, 0, 0};
    case ValueKind::kValExpression:
        return {DWUNW_RULE_VAL_EXPRESSION, 0, 0};
    }
    return {DWUNW_RULE_SAME, 0, 0};
}

void fill_row(LinkAddr start, LinkAddr end, const Rule &rule, dwunw_row *out) {
    out->start = start.value;
    out->end = end.value;
    out->cfa = cfa_rule(rule);
    out->ra = value_rule(rule.ra_kind, rule.ra_reg, rule.ra_offset);
    out->fp = value_rule(rule.fp_kind, rule.fp_reg, rule.fp_offset);
}

dwunw_status open_table(const char *path, dwunw_table **out) {
    auto source = process::FileSource::open(path);
    if (!source)
        return source.error().status;
    auto image = elf::Image::parse(*source);
    if (!image)
        return image.error().status;
    auto input = process::read_cfi_input(*image, *source);
    if (!input)
        return input.error().status;
    auto table = std::make_unique<dwunw_table>();
    const auto begin = std::chrono::steady_clock::now();
    auto cfi = unwind::ModuleCfi::build(std::move(*input));
    if (!cfi)
        return cfi.error().status;
    const auto took = std::chrono::steady_clock::now() - begin;
    table->build_ns = static_cast<uint64_t>(std::chrono::nanoseconds(took).count());
    table->cfi = std::move(*cfi);
    const Table &compiled = table->cfi->table();
    for (size_t i = 0; i < compiled.row_count(); ++i)
        if (compiled.row(i).rule != nullptr)
            table->rows.push_back(static_cast<uint32_t>(i));
    *out = table.release();
    return DWUNW_OK;
}

} // namespace
} // namespace dwunw::capi

extern "C" dwunw_status dwunw_table_open(struct dwunw_context *context, const char *path, struct dwunw_table **out) {
    if (context == nullptr || path == nullptr || out == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::capi::guarded([&] { return dwunw::capi::open_table(path, out); });
}

extern "C" void dwunw_table_close(struct dwunw_table *table) { delete table; }

extern "C" dwunw_status dwunw_table_get_summary(const struct dwunw_table *table, struct dwunw_table_summary *out) {
    if (table == nullptr || out == nullptr || out->size != sizeof(*out))
        return DWUNW_ERR_INVALID_ARGUMENT;
    const Table &compiled = table->cfi->table();
    out->arch = compiled.arch()->id;
    out->fdes = compiled.fde_count();
    out->refused = compiled.refusals().size();
    out->tombstones = compiled.tombstone_count();
    out->rows = table->rows.size();
    out->rules = compiled.rule_count();
    out->bytes = compiled.memory_bytes();
    out->build_ns = table->build_ns;
    return DWUNW_OK;
}

extern "C" dwunw_status dwunw_table_get_row(const struct dwunw_table *table, uint64_t index, struct dwunw_row *out) {
    if (table == nullptr || out == nullptr || out->size != sizeof(*out) || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    if (index >= table->rows.size())
        return DWUNW_ERR_NOT_FOUND;
    const Table::Row row = table->cfi->table().row(table->rows[index]);
    dwunw::capi::fill_row(row.start, row.end, *row.rule, out);
    return DWUNW_OK;
}

extern "C" dwunw_status dwunw_table_lookup(const struct dwunw_table *table, uint64_t address, struct dwunw_row *out) {
    if (table == nullptr || out == nullptr || out->size != sizeof(*out) || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    const Table::Lookup found = table->cfi->table().lookup(dwunw::LinkAddr(address));
    if (found.rule == nullptr)
        return DWUNW_ERR_NOT_FOUND;
    dwunw::capi::fill_row(found.start, found.end, *found.rule, out);
    return DWUNW_OK;
}

extern "C" dwunw_status dwunw_table_get_refusal(const struct dwunw_table *table, uint64_t index,
                                                struct dwunw_refusal *out) {
    if (table == nullptr || out == nullptr || out->size != sizeof(*out))
        return DWUNW_ERR_INVALID_ARGUMENT;
    const auto &refusals = table->cfi->table().refusals();
    if (index >= refusals.size())
        return DWUNW_ERR_NOT_FOUND;
    const dwunw::unwind::Refusal &refusal = refusals[index];
    out->status = static_cast<uint32_t>(refusal.error.status);
    out->section_offset = refusal.section_offset;
    out->start = refusal.start.value;
    return DWUNW_OK;
}

extern "C" const char *dwunw_register_name(uint32_t arch, uint32_t reg) {
    const dwunw::arch::Arch *found = dwunw::arch::find_by_id(arch);
    return found != nullptr && reg < found->register_count ? found->names[reg] : nullptr;
}
