// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds programs that call the walk with a ctx that is not a pt_regs. Uprobes and kprobes give a program a pt_regs. The
// ctx of a perf_event or a tracepoint also loads, but the walk would take the kernel's addresses in it for user code.
//
// Proved by tests/integration/bpf_walk_other_context.
#pragma once

#include <string>

struct bpf_object;

namespace dwunw::bpf {

// The first program of a loaded object that calls the walk and is not a probe, with its type; empty: there is none.
std::string find_other_caller(const bpf_object *object);

} // namespace dwunw::bpf
