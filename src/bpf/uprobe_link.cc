// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/uprobe_link.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace dwunw::bpf {

namespace {

// The part of union bpf_attr for BPF_LINK_CREATE with uprobe_multi.
struct LinkCreate {
    uint32_t program;
    uint32_t target;
    uint32_t attach_type;
    uint32_t flags;
    uint64_t path;
    uint64_t offsets;
    uint64_t ref_ctr_offsets;
    uint64_t cookies;
    uint32_t count;
    uint32_t multi_flags;
    uint32_t pid;
    uint32_t padding;
};
static_assert(offsetof(LinkCreate, path) == 16 && sizeof(LinkCreate) == 64);

constexpr uint32_t kMultiReturn = 1; // BPF_F_UPROBE_MULTI_RETURN

uint64_t pointer(const void *address) { return reinterpret_cast<uintptr_t>(address); }

} // namespace

void LinkDestroyer::operator()(bpf_link *link) const { bpf_link__destroy(link); }

UniqueFd create_multi_link(int program, MultiType type, const MultiProbes &probes) {
    LinkCreate attributes{};
    attributes.program = static_cast<uint32_t>(program);
    attributes.attach_type = static_cast<uint32_t>(type);
    attributes.path = pointer(probes.path);
    attributes.offsets = pointer(probes.offsets.data());
    attributes.cookies = pointer(probes.cookies.data());
    attributes.count = static_cast<uint32_t>(probes.offsets.size());
    attributes.multi_flags = probes.at_return ? kMultiReturn : 0;
    attributes.pid = static_cast<uint32_t>(probes.pid);
    return UniqueFd(static_cast<int>(syscall(SYS_bpf, BPF_LINK_CREATE, &attributes, sizeof(attributes))));
}

// A folder has no code. A kernel that knows such links looks at the path and returns EBADF; another kernel returns
// EINVAL before that.
int probe_multi(MultiType type) {
    constexpr uint8_t kMove = BPF_ALU64 | BPF_MOV | BPF_K;
    constexpr uint8_t kExit = BPF_JMP | BPF_EXIT;
    const bpf_insn return_0[] = {{kMove, BPF_REG_0, 0, 0, 0}, {kExit, 0, 0, 0, 0}};
    LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = static_cast<bpf_attach_type>(type));
    const UniqueFd program(bpf_prog_load(BPF_PROG_TYPE_KPROBE, "dwunw_probe", "GPL", return_0, 2, &options));
    if (!program.valid())
        return errno;
    MultiProbes probes;
    probes.path = "/";
    probes.offsets = {0};
    probes.cookies = {0};
    const UniqueFd link = create_multi_link(program.get(), type, probes);
    if (link.valid() || errno == EBADF)
        return 0;
    return errno;
}

} // namespace dwunw::bpf
