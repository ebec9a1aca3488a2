// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/dwunw_api.h>

#include "capi/handles.h"

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

extern "C" dwunw_status dwunw_init(const struct dwunw_config *config, struct dwunw_context **out) {
    if (out == nullptr || (config != nullptr && (config->size != sizeof(*config) || config->reserved != 0)))
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::capi::guarded([&]() -> dwunw_status {
        *out = new dwunw_context;
        return DWUNW_OK;
    });
}

extern "C" void dwunw_shutdown(struct dwunw_context *context) { delete context; }
