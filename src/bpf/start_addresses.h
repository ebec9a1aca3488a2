// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Where a process's program and its dynamic linker begin, from /proc/PID/auxv (AT_BASE, AT_ENTRY).
// Proved by tests/unit/bpf_start_addresses_test.
#pragma once

#include <cstdint>

namespace dwunw::bpf {

struct StartAddresses {
    uint64_t linker = 0; // its first byte; 0: the program has no dynamic linker
    uint64_t entry = 0;  // the program's entry point
    uint64_t linker_or_program() const { return linker != 0 ? linker : entry; }
};

// All 0 where the file cannot be read.
StartAddresses start_addresses(int32_t pid);

} // namespace dwunw::bpf
