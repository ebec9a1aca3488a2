// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds the pid namespace whose numbers user space uses.
//
//     initial namespace    container
//     4711                 12           the same process: bpf_get_current_pid_tgid() gives 4711, the tool knows 12
//
// The kernel's helper for BPF programs gives the numbers of the initial namespace. User space has those of its own. So
// BPF programs are told which namespace that is (dwunw_settings.pid_namespace).
//
// /proc shows the numbers of the namespace that it was mounted for. The calls that attach probes take those of the
// caller's namespace. If these are two namespaces, one number names two processes, and one's map would be used for the
// other's stack. That is an error.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string_view>

namespace dwunw::bpf {

// The inode of the caller's pid namespace; 0: the initial one. DWUNW_ERR_PID_NAMESPACE: /proc is not mounted, or
// belongs to another namespace.
Result<uint32_t> find_pid_namespace();

// From the text of /proc/self/status: whether the reader has only one number, so that /proc belongs to its namespace. A
// kernel without pid namespaces does not say.
bool has_one_number(std::string_view status);

} // namespace dwunw::bpf
