// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds out, by trying, which features of dwunw.bpf.h the running kernel has.
#pragma once

#include <dwunw/dwunw_api.h>

#include <cstdint>

namespace dwunw::bpf {

struct KernelFeatures {
    // DWUNW_OK, or why no walk is possible: DWUNW_ERR_PERMISSION, DWUNW_ERR_LOCKED_DOWN, DWUNW_ERR_NO_BTF,
    // DWUNW_ERR_BPF (no ring buffer).
    dwunw_status usable = DWUNW_ERR_BPF;
    bool jit = false;          // without it, helpers with callbacks fail: bpf_loop and bpf_find_vma
    bool loop = false;         // bpf_loop
    bool task_storage = false; // with the current task as a pointer
    bool find_vma = false;     // bpf_find_vma, with the same pointer
    // Features that dwunw_bpf_options.flags switched off.
    bool loop_off = false;
    bool task_storage_off = false;

    static KernelFeatures probe(uint32_t flags);
};

} // namespace dwunw::bpf
