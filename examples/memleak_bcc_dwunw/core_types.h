/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The fields of kernel types that memleak reads. libbpf finds them by name when it loads the program (CO-RE), so only
 * names matter here, not order or size. A type with a ___flavour is the form of another kernel version.
 */
#ifndef __CORE_TYPES_H
#define __CORE_TYPES_H

#include <stddef.h>
#include <linux/bpf.h>

typedef _Bool bool;
#define true 1
#define false 0

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* Tracepoint records, include/trace/events/{kmem,percpu}.h. */
struct trace_event_raw_kmalloc {
	const void *ptr;
	size_t bytes_alloc;
};

struct trace_event_raw_kmem_cache_alloc {
	const void *ptr;
	size_t bytes_alloc;
};

/* Before Linux 6.1 (2c1d697fb8ba) kmalloc and kmem_cache_alloc shared one record. */
struct trace_event_raw_kmem_alloc {
	const void *ptr;
	size_t bytes_alloc;
};

/* Until Linux 6.1 (11e9734bcb6a), as were their _node forms. */
struct trace_event_raw_kmem_alloc_node {
	const void *ptr;
	size_t bytes_alloc;
};

struct trace_event_raw_kfree {
	const void *ptr;
};

struct trace_event_raw_kmem_cache_free {
	const void *ptr;
};

/* Before Linux 5.12 (3544de8ee6e4) kfree and kmem_cache_free shared one record. */
struct trace_event_raw_kmem_free {
	const void *ptr;
};

struct trace_event_raw_mm_page_alloc {
	unsigned long pfn;
	unsigned int order;
};

struct trace_event_raw_mm_page_free {
	unsigned long pfn;
	unsigned int order;
};

struct trace_event_raw_percpu_alloc_percpu {
	void *ptr;
	size_t bytes_alloc;
};

struct trace_event_raw_percpu_free_percpu {
	void *ptr;
};

#pragma clang attribute pop

#endif /* __CORE_TYPES_H */
