/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
#ifndef BPF_WALK_H
#define BPF_WALK_H

#include <linux/types.h>

/* One call of the probed function: the stack by the kernel's walk and, taken at the same moment, by the user-space one.
 */
struct bpf_walk_call {
    __u64 number; /* the function's argument */
    __u32 pid;
    __u32 tid;
    __s64 kernel;
    __s64 user;
};

#endif
