// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Programs that call the walk with something else than registers. Uprobes and kprobes hand a program a pt_regs; a
// perf_event's and a tracepoint's load as well, and the walk would take the kernel's addresses in them for user code.
//
// Proved by tests/integration/bpf_walk_other_context.
#pragma once

#include <string>

struct bpf_object;

namespace dwunw::bpf {

// The first program of a loaded object that calls the walk and is no probe, with its type; empty: none does.
std::string find_other_caller(const bpf_object *object);

} // namespace dwunw::bpf
