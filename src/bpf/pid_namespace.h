// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Whose process numbers user space goes by.
//
// The kernel's helper for BPF programs gives the numbers of the initial pid namespace. User space has those of its own
// namespace: in a container they differ. BPF programs are told which namespace that is (dwunw_settings.pid_namespace).
//
// /proc shows the numbers of the namespace that it was mounted for, and the calls that attach probes take those of the
// caller's. Where the two are not one namespace, a number names two processes, and one's map would be used for the
// other's stack: that is an error.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string_view>

namespace dwunw::bpf {

// The inode of the caller's pid namespace; 0 for the initial one. DWUNW_ERR_PID_NAMESPACE where /proc is not mounted or
// belongs to another namespace.
Result<uint32_t> find_pid_namespace();

// From the text of /proc/self/status: whether the reader has one number only, so that /proc is of its own namespace. A
// kernel without pid namespaces does not say.
bool has_one_number(std::string_view status);

} // namespace dwunw::bpf
