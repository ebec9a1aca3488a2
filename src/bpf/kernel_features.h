// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the running kernel has of what dwunw.bpf.h would rather use, found out by trying.
#pragma once

#include <cstdint>

namespace dwunw::bpf {

struct KernelFeatures {
    bool ring_buffer = false;  // without it there is no walk
    bool loop = false;         // bpf_loop
    bool task_storage = false; // and the current task as a pointer to find it by
    bool find_vma = false;     // bpf_find_vma, with the same pointer
    // Of the above, what was switched off (dwunw_bpf_options.flags).
    bool loop_off = false;
    bool task_storage_off = false;

    static KernelFeatures probe(uint32_t flags);
};

} // namespace dwunw::bpf
