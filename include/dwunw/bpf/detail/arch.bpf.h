/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Chooses what the walk knows of the target's architecture. A BPF program names it as for bpf_tracing.h, by
 * __TARGET_ARCH_…; one that names none is for x86-64.
 */
#ifndef DWUNW_BPF_DETAIL_ARCH_H
#define DWUNW_BPF_DETAIL_ARCH_H

#if defined(__TARGET_ARCH_arm64) || !(defined(__bpf__) || defined(__x86_64__))
#error "no port to this architecture: CONTRIBUTING.md, An architecture"
#else
#include "arch_x86_64.bpf.h"
#endif

#endif /* DWUNW_BPF_DETAIL_ARCH_H */
