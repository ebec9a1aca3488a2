// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Links between BPF programs and uprobes.
//
// A uprobe.multi link has many probes: BPF_LINK_CREATE, which libbpf has from 1.3 on and linux/bpf.h from Linux 6.6.
// The numbers and the layout here are the kernel's ABI (include/uapi/linux/bpf.h). Proved by
// tests/integration/bpf_attach_test.sh, in each form.
#pragma once

#include "base/unique_fd.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

struct bpf_link;

namespace dwunw::bpf {

struct LinkDestroyer {
    void operator()(bpf_link *link) const;
};
using Link = std::unique_ptr<bpf_link, LinkDestroyer>;

enum class MultiType : uint32_t { kUprobeMulti = 48, kUprobeSession = 57 }; // enum bpf_attach_type

struct MultiProbes {
    const char *path = nullptr;
    int32_t pid = 0; // 0: every process
    bool at_return = false;
    std::vector<uint64_t> offsets;
    std::vector<uint64_t> cookies;
};

// A link; invalid on failure, with errno.
UniqueFd create_multi_link(int program, MultiType type, const MultiProbes &probes);

// 0: the running kernel has such links. Otherwise the errno of its refusal.
int probe_multi(MultiType type);

} // namespace dwunw::bpf
