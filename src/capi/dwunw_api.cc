// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/dwunw_api.h>

#include "abi/handles.h"

extern "C" const char *dwunw_status_string(dwunw_status status) {
    switch (status) {
#define DWUNW_STATUS_CASE(name, value, text)                                                                           \
    case name:                                                                                                         \
        return text;
        DWUNW_STATUS_LIST(DWUNW_STATUS_CASE)
#undef DWUNW_STATUS_CASE
    }
    return "unknown status";
}

extern "C" dwunw_status dwunw_init(const struct dwunw_config *given, struct dwunw_context **out) {
    const dwunw::Sized config(given, dwunw::IfNull::kDefaults);
    if (!config)
        return config.status();
    if (out == nullptr || config->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        *out = new dwunw_context(config->table_budget != 0 ? config->table_budget
                                                           : dwunw::process::ModuleStore::kDefaultBudget);
        return DWUNW_OK;
    });
}

extern "C" void dwunw_wait_for_tables(struct dwunw_context *context) {
    if (context != nullptr)
        context->modules.wait_for_tables();
}

extern "C" dwunw_status dwunw_context_get_counters(const struct dwunw_context *context,
                                                   struct dwunw_context_counters *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (context == nullptr || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        const auto totals = context->modules.totals();
        out->modules = totals.modules;
        out->table_bytes = totals.table_bytes;
        out->tables_compiled = totals.compiled;
        out->tables_evicted = totals.evicted;
        out->tables_failed = totals.failed;
        return DWUNW_OK;
    });
}

extern "C" void dwunw_shutdown(struct dwunw_context *context) { delete context; }
