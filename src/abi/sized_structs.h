// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The first version of every struct of the C ABI that begins with its size. A caller's struct may end behind the named
// field and no earlier: up to there a caller must set the fields, or a result would not be whole without them. An entry
// never changes once a version of the library has been released with it.
#pragma once

#include "abi/sized.h"

#include <dwunw/bpf_attach.h>
#include <dwunw/bpf_stacks.h>
#include <dwunw/core.h>
#include <dwunw/dwunw_api.h>
#include <dwunw/probe_placement.h>
#include <dwunw/process.h>
#include <dwunw/symbolize.h>
#include <dwunw/table.h>
#include <dwunw/unwind.h>

// X(struct, last field of its first version)
#define DWUNW_SIZED_STRUCTS(X)                                                                                         \
    /* inputs whose every field has a default */                                                                       \
    X(dwunw_config, size)                                                                                              \
    X(dwunw_core_write_options, size)                                                                                  \
    X(dwunw_probe_options, size)                                                                                       \
    X(dwunw_bpf_options, size)                                                                                         \
    /* inputs that are nothing without these */                                                                        \
    X(dwunw_process_options, maps) /* a pid or a map */                                                                \
    X(dwunw_core_options, path)                                                                                        \
    X(dwunw_unwind_request, max_frames)                                                                                \
    X(dwunw_regset, regs[16]) /* x86-64's last */                                                                      \
    X(dwunw_attach_programs, exit)                                                                                     \
    X(dwunw_attach_request, count)                                                                                     \
    /* results that are of use one by one */                                                                           \
    X(dwunw_context_counters, size)                                                                                    \
    X(dwunw_process_counters, size)                                                                                    \
    X(dwunw_bpf_counters, size)                                                                                        \
    X(dwunw_table_summary, size)                                                                                       \
    /* results that are whole or nothing; dwunw_attach takes the plan, too */                                          \
    X(dwunw_thread, regs)                                                                                              \
    X(dwunw_row, fp)                                                                                                   \
    X(dwunw_refusal, start)                                                                                            \
    X(dwunw_symbol, offset)                                                                                            \
    X(dwunw_probe_placement, reason)                                                                                   \
    X(dwunw_attach_plan, reason)                                                                                       \
    X(dwunw_bpf_stack, count)

namespace dwunw {

#define DWUNW_FIRST_SIZE(name, field)                                                                                  \
    template <> inline constexpr size_t kFirstSize<name> = offsetof(name, field) + sizeof(name::field);
DWUNW_SIZED_STRUCTS(DWUNW_FIRST_SIZE)
#undef DWUNW_FIRST_SIZE

} // namespace dwunw
