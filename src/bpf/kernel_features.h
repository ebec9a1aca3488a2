// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the running kernel has of what dwunw.bpf.h needs or would rather use, found out by trying.
#pragma once

#include <dwunw/dwunw_api.h>

#include <cstdint>

namespace dwunw::bpf {

struct KernelFeatures {
    // DWUNW_OK, or why no walk is possible: DWUNW_ERR_PERMISSION, DWUNW_ERR_LOCKED_DOWN, DWUNW_ERR_NO_BTF,
    // DWUNW_ERR_BPF (no ring buffer).
    dwunw_status usable = DWUNW_ERR_BPF;
    bool jit = false;          // without it no helper calls back, so neither of bpf_loop and bpf_find_vma
    bool loop = false;         // bpf_loop
    bool task_storage = false; // and the current task as a pointer to find it by
    bool find_vma = false;     // bpf_find_vma, with the same pointer
    // Of the above, what was switched off (dwunw_bpf_options.flags).
    bool loop_off = false;
    bool task_storage_off = false;

    static KernelFeatures probe(uint32_t flags);
};

} // namespace dwunw::bpf
