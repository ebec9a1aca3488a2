// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * memleak's kernel half: keeps the outstanding blocks, each with the stack of its allocation.
 */
#include "core_types.h"
#include <linux/errno.h>
#include <linux/ptrace.h> /* struct pt_regs, with user space's names */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <dwunw/bpf/dwunw.bpf.h>       /* dwunw-added: the walk */
#include <dwunw/bpf/dwunw_calls.bpf.h> /* dwunw-added: pairs of entry and return */
#include "core_fixes.bpf.h"
#include "maps.bpf.h"
#include "memleak_dwunw.h"

const volatile size_t min_size = 0;
const volatile size_t max_size = -1;
const volatile size_t page_size = 4096;
const volatile __u64 sample_rate = 1;
const volatile bool trace_all = false;
const volatile __u64 stack_flags = 0;
const volatile bool wa_missing_free = false;

/* tid -> requested size, between an allocator's entry and its return */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 10240);
} sizes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64); /* address */
	__type(value, struct alloc_info);
	__uint(max_entries, ALLOCS_MAX_ENTRIES);
} allocs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64); /* stack id */
	__type(value, union combined_alloc_info);
	__uint(max_entries, COMBINED_ALLOCS_MAX_ENTRIES);
} combined_allocs SEC(".maps");

/* tid -> the place where posix_memalign will store the block's address */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 10240);
} memptrs SEC(".maps");

/* Value size and entries are set by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__type(key, __u32);
} stack_traces SEC(".maps");

#include "dwunw_probes.bpf.h" /* dwunw-added: where stacks come from */

static const union combined_alloc_info initial_cinfo;

static void update_statistics_add(__u64 stack_id, __u64 sz)
{
	union combined_alloc_info *existing_cinfo;
	const union combined_alloc_info incremental_cinfo = {
		.total_size = sz,
		.number_of_allocs = 1,
	};

	/* dwunw-added: begin by DWARF, totals are added up from the blocks */
	if (dwunw_mode != DWUNW_MODE_OFF)
		return;
	/* dwunw-added: end */
	existing_cinfo = bpf_map_lookup_or_try_init(&combined_allocs, &stack_id, &initial_cinfo);
	if (!existing_cinfo)
		return;

	__sync_fetch_and_add(&existing_cinfo->bits, incremental_cinfo.bits);
}

static void update_statistics_del(__u64 stack_id, __u64 sz)
{
	union combined_alloc_info *existing_cinfo;
	const union combined_alloc_info decremental_cinfo = {
		.total_size = sz,
		.number_of_allocs = 1,
	};

	/* dwunw-added: begin by DWARF, totals are added up from the blocks */
	if (dwunw_mode != DWUNW_MODE_OFF)
		return;
	/* dwunw-added: end */
	existing_cinfo = bpf_map_lookup_elem(&combined_allocs, &stack_id);
	if (!existing_cinfo)
		return;

	__sync_fetch_and_sub(&existing_cinfo->bits, decremental_cinfo.bits);
}

static bool is_wanted(size_t size)
{
	if (size < min_size || size > max_size)
		return false;
	return sample_rate <= 1 || bpf_ktime_get_ns() % sample_rate == 0;
}

static int gen_alloc_enter(size_t size)
{
	const __u32 tid = bpf_get_current_pid_tgid();
	const __u64 value = size;

	if (!is_wanted(size))
		return 0;

	bpf_map_update_elem(&sizes, &tid, &value, BPF_ANY);

	if (trace_all)
		bpf_printk("alloc entered, size = %lu\n", size);
	return 0;
}

static int record_alloc(void *ctx, __u64 address, __u64 size)
{
	struct alloc_info info;

	__builtin_memset(&info, 0, sizeof(info));
	info.size = size;

	if (address != 0 && address != (__u64)-1) {
		info.timestamp_ns = bpf_ktime_get_ns();
		dwunw_take_stack(ctx, &info);	  // dwunw-added: by DWARF; plain: info.stack_id = bpf_get_stackid(ctx, &stack_traces, stack_flags);
		dwunw_keep_block(address, &info); // dwunw-added: counts those that find no room; plain: bpf_map_update_elem(&allocs, &address, &info, BPF_ANY);
		update_statistics_add(info.stack_id, info.size);
	}

	if (trace_all)
		bpf_printk("alloc exited, size = %lu, result = %lx\n", info.size, address);
	return 0;
}

static int gen_alloc_exit2(void *ctx, __u64 address)
{
	const __u32 tid = bpf_get_current_pid_tgid();
	const __u64 *value = bpf_map_lookup_elem(&sizes, &tid);
	__u64 size;

	if (!value) /* not sampled, or the call began before the probes were attached */
		return 0;

	size = *value;
	bpf_map_delete_elem(&sizes, &tid);
	return record_alloc(ctx, address, size);
}

static int gen_alloc_exit(struct pt_regs *ctx)
{
	return gen_alloc_exit2(ctx, PT_REGS_RC(ctx));
}

static int gen_free_enter(const void *address)
{
	const __u64 addr = (__u64)address;
	const struct alloc_info *found = bpf_map_lookup_elem(&allocs, &addr);
	struct alloc_info info;

	if (!found)
		return 0;

	info = *found;
	bpf_map_delete_elem(&allocs, &addr);
	update_statistics_del(info.stack_id, info.size);

	if (trace_all)
		bpf_printk("free entered, address = %lx, size = %lu\n", address, info.size);
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(malloc_enter, size_t size)
{
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(malloc_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(free_enter, void *address)
{
	return gen_free_enter(address);
}

SEC("uprobe")
int BPF_KPROBE(calloc_enter, size_t nmemb, size_t size)
{
	return gen_alloc_enter(nmemb * size);
}

SEC("uretprobe")
int BPF_KRETPROBE(calloc_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(realloc_enter, void *ptr, size_t size)
{
	gen_free_enter(ptr);
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(realloc_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(mmap_enter, void *address, size_t size)
{
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(mmap_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(munmap_enter, void *address)
{
	return gen_free_enter(address);
}

SEC("uprobe")
int BPF_KPROBE(mremap_enter, void *old_address, size_t old_size, size_t new_size)
{
	gen_free_enter(old_address);
	return gen_alloc_enter(new_size);
}

SEC("uretprobe")
int BPF_KRETPROBE(mremap_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(posix_memalign_enter, void **memptr, size_t alignment, size_t size)
{
	const __u32 tid = bpf_get_current_pid_tgid();
	const __u64 memptr64 = (__u64)memptr;

	bpf_map_update_elem(&memptrs, &tid, &memptr64, BPF_ANY);
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(posix_memalign_exit)
{
	const __u32 tid = bpf_get_current_pid_tgid();
	const __u64 *memptr64 = bpf_map_lookup_elem(&memptrs, &tid);
	void *memptr, *addr;

	if (!memptr64)
		return 0;

	memptr = (void *)*memptr64;
	bpf_map_delete_elem(&memptrs, &tid);
	if (bpf_probe_read_user(&addr, sizeof(addr), memptr))
		return 0;

	return gen_alloc_exit2(ctx, (__u64)addr);
}

SEC("uprobe")
int BPF_KPROBE(aligned_alloc_enter, size_t alignment, size_t size)
{
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(aligned_alloc_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(valloc_enter, size_t size)
{
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(valloc_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(memalign_enter, size_t alignment, size_t size)
{
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(memalign_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("uprobe")
int BPF_KPROBE(pvalloc_enter, size_t size)
{
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(pvalloc_exit)
{
	return gen_alloc_exit(ctx);
}

SEC("tracepoint/kmem/kmalloc")
int memleak__kmalloc(void *ctx)
{
	const void *ptr;
	size_t bytes_alloc;

	if (has_kmem_alloc()) {
		struct trace_event_raw_kmem_alloc *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
		bytes_alloc = BPF_CORE_READ(args, bytes_alloc);
	} else {
		struct trace_event_raw_kmalloc *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
		bytes_alloc = BPF_CORE_READ(args, bytes_alloc);
	}

	if (wa_missing_free)
		gen_free_enter(ptr);
	gen_alloc_enter(bytes_alloc);
	return gen_alloc_exit2(ctx, (__u64)ptr);
}

SEC("tracepoint/kmem/kmalloc_node")
int memleak__kmalloc_node(void *ctx)
{
	struct trace_event_raw_kmem_alloc_node *args = ctx;
	const void *ptr;

	if (!has_kmem_alloc_node()) /* the tracepoint and its record were removed together */
		return 0;

	ptr = BPF_CORE_READ(args, ptr);
	if (wa_missing_free)
		gen_free_enter(ptr);
	gen_alloc_enter(BPF_CORE_READ(args, bytes_alloc));
	return gen_alloc_exit2(ctx, (__u64)ptr);
}

SEC("tracepoint/kmem/kfree")
int memleak__kfree(void *ctx)
{
	const void *ptr;

	if (has_kfree()) {
		struct trace_event_raw_kfree *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
	} else {
		struct trace_event_raw_kmem_free *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
	}
	return gen_free_enter(ptr);
}

SEC("tracepoint/kmem/kmem_cache_alloc")
int memleak__kmem_cache_alloc(void *ctx)
{
	const void *ptr;
	size_t bytes_alloc;

	if (has_kmem_alloc()) {
		struct trace_event_raw_kmem_alloc *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
		bytes_alloc = BPF_CORE_READ(args, bytes_alloc);
	} else {
		struct trace_event_raw_kmem_cache_alloc *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
		bytes_alloc = BPF_CORE_READ(args, bytes_alloc);
	}

	if (wa_missing_free)
		gen_free_enter(ptr);
	gen_alloc_enter(bytes_alloc);
	return gen_alloc_exit2(ctx, (__u64)ptr);
}

SEC("tracepoint/kmem/kmem_cache_alloc_node")
int memleak__kmem_cache_alloc_node(void *ctx)
{
	struct trace_event_raw_kmem_alloc_node *args = ctx;
	const void *ptr;

	if (!has_kmem_alloc_node())
		return 0;

	ptr = BPF_CORE_READ(args, ptr);
	if (wa_missing_free)
		gen_free_enter(ptr);
	gen_alloc_enter(BPF_CORE_READ(args, bytes_alloc));
	return gen_alloc_exit2(ctx, (__u64)ptr);
}

SEC("tracepoint/kmem/kmem_cache_free")
int memleak__kmem_cache_free(void *ctx)
{
	const void *ptr;

	if (has_kmem_cache_free()) {
		struct trace_event_raw_kmem_cache_free *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
	} else {
		struct trace_event_raw_kmem_free *args = ctx;
		ptr = BPF_CORE_READ(args, ptr);
	}
	return gen_free_enter(ptr);
}

SEC("tracepoint/kmem/mm_page_alloc")
int memleak__mm_page_alloc(struct trace_event_raw_mm_page_alloc *ctx)
{
	gen_alloc_enter(page_size << BPF_CORE_READ(ctx, order));
	return gen_alloc_exit2(ctx, BPF_CORE_READ(ctx, pfn));
}

SEC("tracepoint/kmem/mm_page_free")
int memleak__mm_page_free(struct trace_event_raw_mm_page_free *ctx)
{
	return gen_free_enter((void *)BPF_CORE_READ(ctx, pfn));
}

SEC("tracepoint/percpu/percpu_alloc_percpu")
int memleak__percpu_alloc_percpu(struct trace_event_raw_percpu_alloc_percpu *ctx)
{
	gen_alloc_enter(BPF_CORE_READ(ctx, bytes_alloc));
	return gen_alloc_exit2(ctx, (__u64)BPF_CORE_READ(ctx, ptr));
}

SEC("tracepoint/percpu/percpu_free_percpu")
int memleak__percpu_free_percpu(struct trace_event_raw_percpu_free_percpu *ctx)
{
	return gen_free_enter(BPF_CORE_READ(ctx, ptr));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
