// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: what memleak does with the records that its kernel half sends */
#include "dwunw_stacks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dwunw/dwunw_api.h>
#include <dwunw/process.h>
#include <dwunw/symbolize.h>
#include <dwunw/unwind.h>

#define MAX_FRAMES 1024

/* Chained hash tables: every element begins with its link and its hash. */
struct hash_node {
	struct hash_node *next;
	uint64_t hash;
};

struct hash_table {
	struct hash_node **buckets;
	size_t bucket_count; /* a power of two */
	size_t count;
};

/* One distinct stack. */
struct stack {
	struct hash_node node;
	uint64_t number;
	dwunw_status end; /* DWUNW_OK: complete; otherwise why the walk stopped */
	size_t count;
	struct dwunw_frame frames[];
};

/* The newest allocation at an address. */
struct block {
	struct hash_node node;
	uint64_t address;
	uint64_t timestamp_ns;
	struct stack *stack;
	uint64_t report; /* the last one that asked for it */
};

struct dwunw_stacks {
	enum dwunw_mode mode;
	struct dwunw_context *context;
	struct dwunw_process *process;
	struct dwunw_symbolizer *symbolizer;
	struct ring_buffer *ring;
	struct hash_table stacks;
	struct hash_table blocks;
	struct stack **by_number;
	size_t by_number_capacity;
	uint64_t until_ns;		      /* records younger than this can wait */
	const volatile sig_atomic_t *exiting; /* or NULL: they cannot */
	uint64_t started_ns;		      /* of this report */
	uint64_t report;		      /* its number */
	bool taken_in_again;		      /* in this report */
	uint64_t captures;
	uint64_t captures_ended[DWUNW_ERR_NOT_FOUND + 1]; /* by status */
	uint64_t lost_to_memory;
	struct dwunw_frame frames[MAX_FRAMES]; /* of the record being walked */
};

/* What stands for all blocks whose record found no room. */
#define DROPPED_STACK (DWUNW_STACK_ID_BASE)
#define FIRST_STACK (DWUNW_STACK_ID_BASE + 1)

static uint64_t hash_mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 32;
}

static struct hash_node **hash_bucket(const struct hash_table *table, uint64_t hash)
{
	return &table->buckets[hash & (table->bucket_count - 1)];
}

static int hash_insert(struct hash_table *table, struct hash_node *node)
{
	struct hash_node **bucket;

	if (table->count >= table->bucket_count) {
		struct hash_table bigger = { .bucket_count = table->bucket_count ? table->bucket_count * 2 : 1024 };

		bigger.buckets = calloc(bigger.bucket_count, sizeof(*bigger.buckets));
		if (!bigger.buckets)
			return -ENOMEM;
		for (size_t i = 0; i < table->bucket_count; i++) {
			struct hash_node *moving = table->buckets[i];

			while (moving) {
				struct hash_node *next = moving->next;

				bucket = hash_bucket(&bigger, moving->hash);
				moving->next = *bucket;
				*bucket = moving;
				moving = next;
			}
		}
		bigger.count = table->count;
		free(table->buckets);
		*table = bigger;
	}
	bucket = hash_bucket(table, node->hash);
	node->next = *bucket;
	*bucket = node;
	table->count++;
	return 0;
}

static void hash_free(struct hash_table *table)
{
	for (size_t i = 0; i < table->bucket_count; i++) {
		struct hash_node *node = table->buckets[i];

		while (node) {
			struct hash_node *next = node->next;

			free(node);
			node = next;
		}
	}
	free(table->buckets);
}

static struct hash_node *hash_first(const struct hash_table *table, uint64_t hash)
{
	return table->bucket_count ? *hash_bucket(table, hash) : NULL;
}

static struct stack *find_stack(const struct dwunw_stacks *stacks, uint64_t hash, dwunw_status end, size_t count)
{
	for (struct hash_node *node = hash_first(&stacks->stacks, hash); node; node = node->next) {
		struct stack *stack = (struct stack *)node;
		size_t i = 0;

		if (node->hash != hash || stack->end != end || stack->count != count)
			continue;
		while (i < count && stack->frames[i].pc == stacks->frames[i].pc &&
		       stack->frames[i].module == stacks->frames[i].module &&
		       stack->frames[i].source == stacks->frames[i].source)
			i++;
		if (i == count)
			return stack;
	}
	return NULL;
}

/* The stack that lies in stacks->frames, a new one if it was not there before. */
static struct stack *find_or_add_stack(struct dwunw_stacks *stacks, dwunw_status end, size_t count)
{
	uint64_t hash = hash_mix(end, count);
	struct stack *stack;

	for (size_t i = 0; i < count; i++)
		hash = hash_mix(hash, stacks->frames[i].pc);
	stack = find_stack(stacks, hash, end, count);
	if (stack)
		return stack;

	if (stacks->stacks.count == stacks->by_number_capacity) {
		const size_t capacity = stacks->by_number_capacity ? stacks->by_number_capacity * 2 : 256;
		struct stack **grown = reallocarray(stacks->by_number, capacity, sizeof(*grown));

		if (!grown)
			return NULL;
		stacks->by_number = grown;
		stacks->by_number_capacity = capacity;
	}
	stack = calloc(1, sizeof(*stack) + count * sizeof(stack->frames[0]));
	if (!stack)
		return NULL;
	stack->node.hash = hash;
	stack->end = end;
	stack->count = count;
	stack->number = FIRST_STACK + stacks->stacks.count;
	memcpy(stack->frames, stacks->frames, count * sizeof(stack->frames[0]));
	stacks->by_number[stacks->stacks.count] = stack;
	if (hash_insert(&stacks->stacks, &stack->node)) {
		free(stack);
		return NULL;
	}
	return stack;
}

static struct block *find_block(const struct dwunw_stacks *stacks, uint64_t address)
{
	for (struct hash_node *node = hash_first(&stacks->blocks, hash_mix(0, address)); node; node = node->next)
		if (((struct block *)node)->address == address)
			return (struct block *)node;
	return NULL;
}

static struct block *find_or_add_block(struct dwunw_stacks *stacks, uint64_t address)
{
	struct block *block = find_block(stacks, address);

	if (block)
		return block;
	block = calloc(1, sizeof(*block));
	if (!block)
		return NULL;
	block->node.hash = hash_mix(0, address);
	block->address = address;
	if (hash_insert(&stacks->blocks, &block->node)) {
		free(block);
		return NULL;
	}
	return block;
}

static int on_event(void *arg, void *data, size_t size)
{
	struct dwunw_stacks *stacks = arg;
	const struct dwunw_event *event = data;
	struct dwunw_regset regs;
	struct dwunw_unwind_request request = {
		.size = sizeof(request),
		.process = stacks->process,
		.regs = &regs,
		.stack_addr = event->stack_addr,
		.stack = event->stack,
		.stack_size = event->stack_len,
		.pending_returns = event->pending,
		.pending_return_count = event->pending_count,
		.frames = stacks->frames,
		.max_frames = MAX_FRAMES,
	};
	struct stack *stack;
	struct block *block;
	dwunw_status end;
	size_t count;

	(void)size;
	dwunw_regset_from_x86_64_pt_regs(&regs, event->pt_regs);
	end = dwunw_capture(stacks->context, &request, &count);
	stacks->captures++;
	stacks->captures_ended[end]++;

	stack = find_or_add_stack(stacks, end, count);
	block = stack ? find_or_add_block(stacks, event->address) : NULL;
	if (!block) {
		stacks->lost_to_memory++;
	} else if (event->timestamp_ns >= block->timestamp_ns) {
		/* Two threads' records can come in another order than their blocks' times. */
		block->timestamp_ns = event->timestamp_ns;
		block->stack = stack;
	}
	/* libbpf would go on for as long as records come in, which can be for ever. */
	return event->timestamp_ns >= stacks->until_ns || (stacks->exiting && *stacks->exiting) ? -ETIME : 0;
}

int dwunw_stacks__new(struct dwunw_stacks **out, int map_fd, int pid, enum dwunw_mode mode, const char **why)
{
	const struct dwunw_process_options options = { .size = sizeof(options), .pid = pid };
	struct dwunw_stacks *stacks = calloc(1, sizeof(*stacks));
	dwunw_status status;
	int err = -ENOMEM;

	*why = "out of memory";
	if (!stacks)
		return err;
	stacks->mode = mode;
	stacks->report = 1;
	status = dwunw_init(NULL, &stacks->context);
	if (status == DWUNW_OK)
		status = dwunw_symbolizer_create(&stacks->symbolizer);
	if (status == DWUNW_OK)
		status = dwunw_process_open(stacks->context, &options, &stacks->process);
	if (status != DWUNW_OK) {
		*why = dwunw_status_string(status);
		err = status == DWUNW_ERR_NO_PROCESS ? -ESRCH : status == DWUNW_ERR_PERMISSION ? -EPERM
											       : -EIO;
		goto err_out;
	}
	stacks->ring = ring_buffer__new(map_fd, on_event, stacks, NULL);
	if (!stacks->ring) {
		err = -errno;
		*why = "failed to set up the ring buffer";
		goto err_out;
	}
	*out = stacks;
	return 0;

err_out:
	dwunw_stacks__free(stacks);
	return err;
}

void dwunw_stacks__free(struct dwunw_stacks *stacks)
{
	if (!stacks)
		return;
	ring_buffer__free(stacks->ring);
	hash_free(&stacks->blocks);
	hash_free(&stacks->stacks);
	free(stacks->by_number);
	dwunw_symbolizer_destroy(stacks->symbolizer);
	dwunw_process_close(stacks->process);
	dwunw_shutdown(stacks->context);
	free(stacks);
}

/* The clock that bpf_ktime_get_ns reads. */
static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void dwunw_stacks__wait(struct dwunw_stacks *stacks, int interval, const volatile sig_atomic_t *exiting)
{
	uint64_t now;

	stacks->until_ns = now_ns() + (uint64_t)interval * 1000000000;
	stacks->exiting = exiting;
	/* A signal also interrupts the poll; one that comes just before it is seen within its second. */
	while (!*exiting && (now = now_ns()) < stacks->until_ns) {
		const uint64_t left_ms = (stacks->until_ns - now) / 1000000 + 1;

		if (ring_buffer__poll(stacks->ring, left_ms < 1000 ? (int)left_ms : 1000) == -ETIME)
			break;
	}
}

/* Takes in every record up to now. One that is being written holds up those behind it: hence the wait for it. */
static void take_in(struct dwunw_stacks *stacks)
{
	int taken;

	stacks->until_ns = now_ns();
	stacks->exiting = NULL;
	do
		taken = ring_buffer__poll(stacks->ring, 10);
	while (taken > 0 || taken == -EINTR);
}

void dwunw_stacks__begin_report(struct dwunw_stacks *stacks)
{
	stacks->taken_in_again = false;
	take_in(stacks);
	stacks->started_ns = stacks->until_ns;
}

static size_t kernel_stack_depth(int map_fd, int stack_id, uint64_t *ips, size_t max_ips)
{
	size_t depth = 0;

	if (stack_id < 0 || bpf_map_lookup_elem(map_fd, &stack_id, ips))
		return 0;
	while (depth < max_ips && ips[depth])
		depth++;
	return depth;
}

uint64_t dwunw_stacks__stack_of(struct dwunw_stacks *stacks, uint64_t address, const struct alloc_info *info,
				int kernel_stack_map, uint64_t *kernel_ips, size_t max_ips)
{
	struct block *block = find_block(stacks, address);
	size_t depth;
	bool known;

	/* Its record may still be on its way. */
	if (info->timestamp_ns >= stacks->started_ns)
		return DWUNW_STACK_ID_LATER;
	if ((!block || block->timestamp_ns < info->timestamp_ns) && !stacks->taken_in_again) {
		/* A thread was held up between its clock and its record, or there is none: once tells. */
		stacks->taken_in_again = true;
		take_in(stacks);
		block = find_block(stacks, address);
	}
	/* A younger one is of a block that came after this one was freed, as just was. */
	if (block && block->timestamp_ns > info->timestamp_ns)
		return DWUNW_STACK_ID_LATER;
	known = block && block->timestamp_ns == info->timestamp_ns;
	if (known)
		block->report = stacks->report;
	if (known && (stacks->mode == DWUNW_MODE_FORCE || block->stack->end == DWUNW_OK))
		return block->stack->number;
	if (stacks->mode == DWUNW_MODE_FORCE)
		return DROPPED_STACK;
	depth = kernel_stack_depth(kernel_stack_map, info->stack_id, kernel_ips, max_ips);
	if (depth > (known ? block->stack->count : 0))
		return (uint64_t)info->stack_id;
	return known ? block->stack->number : DROPPED_STACK;
}

static void print_frame(struct dwunw_stacks *stacks, size_t i, const struct dwunw_frame *frame)
{
	struct dwunw_symbol symbol = { .size = sizeof(symbol) };
	const char *mark = frame->source == DWUNW_SOURCE_FRAME_POINTER ? " [frame pointer]" : "";

	if (!frame->module)
		printf("\t%zu [<%016lx>] <null sym>%s\n", i, frame->pc, mark);
	else if (dwunw_symbolize_frame(stacks->symbolizer, frame, &symbol) == DWUNW_OK)
		printf("\t%zu [<%016lx>] %s+0x%lx [%s]%s\n", i, frame->pc, symbol.name, symbol.offset,
		       dwunw_module_path(frame->module), mark);
	else
		printf("\t%zu [<%016lx>] [%s]%s\n", i, frame->pc, dwunw_module_path(frame->module), mark);
}

bool dwunw_stacks__print(struct dwunw_stacks *stacks, uint64_t stack_id)
{
	const struct stack *stack;

	if (stack_id < DWUNW_STACK_ID_BASE) {
		printf("\t[kernel frame-pointer stack: it goes further than dwunw's]\n");
		return false;
	}
	if (stack_id == DROPPED_STACK) {
		printf("\t[no stack: ring buffer full]\n");
		return true;
	}
	stack = stacks->by_number[stack_id - FIRST_STACK];
	for (size_t i = 0; i < stack->count; i++)
		print_frame(stacks, i, &stack->frames[i]);
	if (stack->end != DWUNW_OK)
		printf("\t[partial: %s]\n", dwunw_status_string(stack->end));
	return true;
}

void dwunw_stacks__end_report(struct dwunw_stacks *stacks, uint64_t dropped)
{
	struct hash_table *blocks = &stacks->blocks;
	uint64_t partial = 0;

	for (size_t i = 0; i < blocks->bucket_count; i++) {
		struct hash_node **link = &blocks->buckets[i];

		while (*link) {
			struct block *block = (struct block *)*link;

			/* A record comes before its block is seen outstanding: a young one has not been asked for yet. */
			if (block->report == stacks->report || block->timestamp_ns + 1000000000 > stacks->started_ns) {
				link = &block->node.next;
			} else {
				*link = block->node.next;
				free(block);
				blocks->count--;
			}
		}
	}

	for (int status = 1; status <= DWUNW_ERR_NOT_FOUND; status++)
		partial += stacks->captures_ended[status];
	printf("dwunw: %lu allocations walked, %zu distinct stacks, %lu partial", stacks->captures, stacks->stacks.count,
	       partial);
	for (int status = 1; status <= DWUNW_ERR_NOT_FOUND; status++)
		if (stacks->captures_ended[status])
			printf(" [%s: %lu]", dwunw_status_string(status), stacks->captures_ended[status]);
	printf(", %lu dropped (ring buffer full)", dropped);
	if (stacks->lost_to_memory)
		printf(", %lu lost (out of memory)", stacks->lost_to_memory);
	printf("\n");
	stacks->report++;
}
/* dwunw-added: end */
