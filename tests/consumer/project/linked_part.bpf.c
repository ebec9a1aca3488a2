// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* Half of a BPF object: compiled twice, with PART=first and PART=second, and linked with `bpftool gen object`. */
#include <dwunw/bpf/dwunw.bpf.h>

#define NAME_OF(part, name) name##_##part
#define NAME(part, name) NAME_OF(part, name)

#ifdef HAS_LICENSE
char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif

__s64 NAME(PART, id);

SEC("uprobe")
int NAME(PART, on)(void *ctx) {
    NAME(PART, id) = dwunw_get_stackid(ctx, 0);
    return 0;
}
