// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/kernel_features.h"

#include <dwunw/bpf_stacks.h>

#include <bpf/libbpf.h>

namespace dwunw::bpf {

KernelFeatures KernelFeatures::probe(uint32_t flags) {
    const auto helper = [](bpf_func_id id) { return libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, id, nullptr) == 1; };
    KernelFeatures features;
    features.ring_buffer = libbpf_probe_bpf_map_type(BPF_MAP_TYPE_RINGBUF, nullptr) == 1;
    features.loop_off = (flags & DWUNW_BPF_NO_LOOP) != 0;
    features.loop = !features.loop_off && helper(BPF_FUNC_loop);
    features.task_storage_off = (flags & DWUNW_BPF_NO_TASK_STORAGE) != 0;
    features.task_storage = !features.task_storage_off &&
                            libbpf_probe_bpf_map_type(BPF_MAP_TYPE_TASK_STORAGE, nullptr) == 1 &&
                            helper(BPF_FUNC_task_storage_get) && helper(BPF_FUNC_get_current_task_btf);
    features.find_vma = helper(BPF_FUNC_find_vma) && helper(BPF_FUNC_get_current_task_btf);
    return features;
}

} // namespace dwunw::bpf
