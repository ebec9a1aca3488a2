/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Tracepoint records that changed between kernel versions, read in the form of the running kernel.
 */
#ifndef __CORE_FIXES_BPF_H
#define __CORE_FIXES_BPF_H

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "core_types.h"

static __always_inline bool has_kmem_alloc(void)
{
	return bpf_core_type_exists(struct trace_event_raw_kmem_alloc);
}

static __always_inline bool has_kmem_alloc_node(void)
{
	return bpf_core_type_exists(struct trace_event_raw_kmem_alloc_node);
}

static __always_inline bool has_kfree(void)
{
	return bpf_core_type_exists(struct trace_event_raw_kfree);
}

static __always_inline bool has_kmem_cache_free(void)
{
	return bpf_core_type_exists(struct trace_event_raw_kmem_cache_free);
}

#endif /* __CORE_FIXES_BPF_H */
