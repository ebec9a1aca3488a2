// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: what memleak's user half does with the stack ids of its kernel half */
#include "dwunw_stacks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

#include <bpf/bpf.h>
#include <dwunw/bpf_stacks.h>
#include <dwunw/dwunw_api.h>
#include <dwunw/process.h>
#include <dwunw/symbolize.h>
#include <dwunw/unwind.h>

#define MAX_FRAMES 1024
#define STATUSES 64
/* A record that an earlier one holds up comes within one of these, if it comes. */
#define LOOKS_FOR_RECORDS 8
/* Stacks that no block has any more are forgotten from so many bytes of them on. */
#define FORGET_FROM (16ull << 20)
/* A report takes its time: the ring buffer is emptied now and then meanwhile. */
#define BLOCKS_BETWEEN_POLLS 256

struct dwunw_stacks {
	enum dwunw_mode mode;
	struct dwunw_context *context;
	struct dwunw_bpf *bpf;
	struct dwunw_symbolizer *symbolizer;
	uint64_t started_ns; /* of this report */
	int looks_left;	     /* in this report */
	/* of this report's account */
	uint64_t distinct;
	uint64_t partial[STATUSES];
	/* those of all blocks, in this report; −1: there was no memory for them */
	uint64_t *ids;
	ssize_t id_count, id_room;
	unsigned int since_poll;	       /* blocks and stacks */
	struct dwunw_frame frames[MAX_FRAMES]; /* of the stack being printed */
};

static int error_of(dwunw_status status)
{
	switch (status) {
	case DWUNW_ERR_NO_PROCESS:
		return -ESRCH;
	case DWUNW_ERR_PERMISSION:
		return -EPERM;
	case DWUNW_ERR_OUT_OF_MEMORY:
		return -ENOMEM;
	default:
		return -EIO;
	}
}

int dwunw_stacks__open(struct dwunw_stacks **out, struct bpf_object *object, const struct dwunw_stacks_options *options,
		       const char **why)
{
	struct dwunw_bpf_options bpf_options = {
		.size = sizeof(bpf_options),
		.ring_bytes = options->ring_bytes,
		.slice_bytes = options->stack_bytes,
	};
	struct dwunw_stacks *stacks = calloc(1, sizeof(*stacks));
	dwunw_status status;

	*why = "out of memory";
	if (!stacks)
		return -ENOMEM;
	stacks->mode = options->mode;
	if (options->mode == DWUNW_MODE_OFF) {
		/* The maps are there, but nothing is put into them. */
		bpf_options.pool_bytes = bpf_options.ring_bytes = 4096;
		bpf_options.mappings = bpf_options.processes = bpf_options.stack_ids = bpf_options.threads = 1;
	}
	status = dwunw_init(NULL, &stacks->context);
	if (status == DWUNW_OK)
		status = dwunw_symbolizer_create(&stacks->symbolizer);
	if (status == DWUNW_OK)
		status = dwunw_bpf_open(stacks->context, object, &bpf_options, &stacks->bpf);
	if (status != DWUNW_OK) {
		*why = dwunw_status_string(status);
		dwunw_stacks__free(stacks);
		return error_of(status);
	}
	*out = stacks;
	return 0;
}

int dwunw_stacks__start(struct dwunw_stacks *stacks, int pid, bool verbose, const char **why)
{
	dwunw_status status = dwunw_bpf_start(stacks->bpf);
	char choices[1024];

	if (status == DWUNW_OK)
		status = dwunw_bpf_add_process(stacks->bpf, pid);
	if (status == DWUNW_OK && verbose) {
		dwunw_bpf_describe(stacks->bpf, choices, sizeof(choices));
		fprintf(stderr, "%s", choices);
	}
	if (status == DWUNW_OK)
		return 0;
	*why = dwunw_status_string(status);
	return error_of(status);
}

void dwunw_stacks__free(struct dwunw_stacks *stacks)
{
	if (!stacks)
		return;
	free(stacks->ids);
	dwunw_bpf_close(stacks->bpf);
	dwunw_symbolizer_destroy(stacks->symbolizer);
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
	const uint64_t until_ns = now_ns() + (uint64_t)interval * 1000000000;
	uint64_t now;

	/* A signal also interrupts the poll; one that comes just before it is seen within its second. */
	while (!*exiting && (now = now_ns()) < until_ns) {
		const uint64_t left_ms = (until_ns - now) / 1000000 + 1;

		dwunw_bpf_poll(stacks->bpf, left_ms < 1000 ? (int)left_ms : 1000, NULL);
	}
}

/* Whatever was sent before; a target that goes on sending is not waited for. */
static void take_in(struct dwunw_stacks *stacks)
{
	const uint64_t until_ns = now_ns() + 1000000000;
	size_t taken;

	do
		taken = 0;
	while (dwunw_bpf_poll(stacks->bpf, 0, &taken) == DWUNW_OK && taken && now_ns() < until_ns);
}

void dwunw_stacks__begin_report(struct dwunw_stacks *stacks)
{
	stacks->started_ns = now_ns();
	stacks->looks_left = LOOKS_FOR_RECORDS;
	stacks->id_count = 0;
	take_in(stacks);
}

static void note_id(struct dwunw_stacks *stacks, int64_t id)
{
	if (++stacks->since_poll >= BLOCKS_BETWEEN_POLLS) {
		stacks->since_poll = 0;
		dwunw_bpf_poll(stacks->bpf, 0, NULL);
	}
	if (id <= 0 || stacks->id_count < 0)
		return;
	if (stacks->id_count == stacks->id_room) {
		const ssize_t room = stacks->id_room ? 2 * stacks->id_room : 4096;
		uint64_t *ids = realloc(stacks->ids, (size_t)room * sizeof(*ids));

		if (!ids) {
			stacks->id_count = -1;
			return;
		}
		stacks->ids = ids;
		stacks->id_room = room;
	}
	stacks->ids[stacks->id_count++] = (uint64_t)id;
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

uint64_t dwunw_stacks__stack_of(struct dwunw_stacks *stacks, const struct alloc_info *info, int kernel_stack_map,
				uint64_t *kernel_ips, size_t max_ips)
{
	struct dwunw_bpf_stack stack = { .size = sizeof(stack) };
	dwunw_status found = DWUNW_ERR_NOT_FOUND;

	note_id(stacks, info->dwunw_id);
	if (info->timestamp_ns >= stacks->started_ns)
		return DWUNW_STACK_LATER;
	if (info->dwunw_id > 0) {
		/* Its record came before the block, but may be behind one that was not finished when records were taken in. */
		while ((found = dwunw_bpf_lookup(stacks->bpf, (uint64_t)info->dwunw_id, &stack, NULL, 0)) ==
			       DWUNW_ERR_NOT_FOUND &&
		       stacks->looks_left-- > 0)
			dwunw_bpf_poll(stacks->bpf, 10, NULL);
	}
	if (stacks->mode == DWUNW_MODE_FALLBACK && (found != DWUNW_OK || stack.status != DWUNW_OK) &&
	    kernel_stack_depth(kernel_stack_map, info->stack_id, kernel_ips, max_ips) >
		    (found == DWUNW_OK ? stack.count : 0))
		return (uint64_t)info->stack_id;
	if (found == DWUNW_OK)
		return stack.id;
	return DWUNW_STACK_MISSING + (info->dwunw_id < 0 ? (uint64_t)-info->dwunw_id : DWUNW_BPF_REASONS);
}

/* A name is the target's own choice, and may be made for the terminal that it is printed on. */
static void print_text(const char *text)
{
	for (; *text; text++)
		putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
}

static void print_frame(struct dwunw_stacks *stacks, size_t i, const struct dwunw_frame *frame)
{
	struct dwunw_symbol symbol = { .size = sizeof(symbol) };
	const char *mark = frame->source == DWUNW_SOURCE_FRAME_POINTER ? " [frame pointer]" : "";

	printf("\t%zu [<%016lx>] ", i, frame->pc);
	if (!frame->module) {
		printf("<null sym>%s\n", mark);
		return;
	}
	if (dwunw_symbolize_frame(stacks->symbolizer, frame, &symbol) == DWUNW_OK) {
		print_text(symbol.name);
		printf("+0x%lx ", symbol.offset);
	}
	printf("[");
	print_text(dwunw_module_path(frame->module));
	printf("]%s\n", mark);
}

bool dwunw_stacks__print(struct dwunw_stacks *stacks, uint64_t stack_id)
{
	struct dwunw_bpf_stack stack = { .size = sizeof(stack) };

	/* A stack with its names and blocks takes some sixteen times as long as a block. */
	note_id(stacks, 0);
	stacks->since_poll += 15;
	if (stack_id < DWUNW_STACK_MISSING) {
		printf("\t[kernel frame-pointer stack: it goes further than dwunw's]\n");
		return false;
	}
	if (dwunw_bpf_lookup(stacks->bpf, stack_id, &stack, stacks->frames, MAX_FRAMES) != DWUNW_OK) {
		const uint32_t reason = (uint32_t)(stack_id - DWUNW_STACK_MISSING);

		printf("\t[no stack: %s]\n",
		       reason < DWUNW_BPF_REASONS ? dwunw_bpf_reason_string(reason) : "its record was lost");
		return true;
	}
	for (size_t i = 0; i < stack.count && i < MAX_FRAMES; i++)
		print_frame(stacks, i, &stacks->frames[i]);
	if (stack.status != DWUNW_OK)
		printf("\t[partial: %s]\n", dwunw_status_string(stack.status));
	else if (stack.count > MAX_FRAMES)
		printf("\t[partial: %" PRIu64 " more frames]\n", stack.count - MAX_FRAMES);
	return true;
}

static void count_stack(void *arg, uint64_t id)
{
	struct dwunw_stacks *stacks = arg;
	struct dwunw_bpf_stack stack = { .size = sizeof(stack) };

	/* Of the ids of one stack, the first. */
	if (dwunw_bpf_lookup(stacks->bpf, id, &stack, NULL, 0) != DWUNW_OK || stack.id != id)
		return;
	stacks->distinct++;
	stacks->partial[stack.status < STATUSES ? stack.status : STATUSES - 1]++;
}

/* "NAME: n [why: m] …" for the reasons from `first` to `last`; nothing where there are none. */
static void print_reasons(const char *name, const struct dwunw_bpf_counters *counters, uint32_t first, uint32_t last)
{
	uint64_t sum = 0;

	for (uint32_t reason = first; reason <= last; reason++)
		sum += counters->reasons[reason];
	if (!sum)
		return;
	printf("dwunw: %s: %" PRIu64, name, sum);
	for (uint32_t reason = first; reason <= last; reason++)
		if (counters->reasons[reason])
			printf(" [%s: %" PRIu64 "]", dwunw_bpf_reason_string(reason), counters->reasons[reason]);
	printf("\n");
}

static void print_loss(const char *what, uint64_t count)
{
	if (count)
		printf("dwunw: %s: %" PRIu64 "\n", what, count);
}

void dwunw_stacks__end_report(struct dwunw_stacks *stacks, uint64_t blocks_lost)
{
	struct dwunw_bpf_counters counters = { .size = sizeof(counters) };
	uint64_t walked, partial = 0;

	if (dwunw_bpf_get_counters(stacks->bpf, &counters) != DWUNW_OK)
		return;
	stacks->distinct = 0;
	for (size_t status = 0; status < STATUSES; status++)
		stacks->partial[status] = 0;
	dwunw_bpf_each_stack(stacks->bpf, count_stack, stacks);

	walked = counters.walks;
	for (uint32_t reason = DWUNW_BPF_LAST_FALLBACK + 1; reason < DWUNW_BPF_REASONS; reason++)
		walked -= counters.reasons[reason];
	for (size_t status = 1; status < STATUSES; status++)
		partial += stacks->partial[status];
	printf("dwunw: %" PRIu64 " allocations walked, %" PRIu64 " distinct stacks, %" PRIu64 " partial", walked,
	       stacks->distinct, partial);
	for (size_t status = 1; status < STATUSES; status++)
		if (stacks->partial[status])
			printf(" [%s: %" PRIu64 "]", dwunw_status_string((dwunw_status)status), stacks->partial[status]);
	printf(", %" PRIu64 " dropped (ring buffer full)\n", counters.reasons[DWUNW_BPF_DROPPED]);

	print_reasons("left to user space", &counters, DWUNW_BPF_COMPLETE + 1, DWUNW_BPF_FORCED - 1);
	print_reasons("without a stack", &counters, DWUNW_BPF_LAST_FALLBACK + 1, DWUNW_BPF_REASONS - 1);
	print_loss("blocks that the map of outstanding ones had no room for", blocks_lost);
	print_loss("calls that there was no memory for", counters.lost_calls);
	print_loss("stacks that there was no room for", counters.lost_to_memory);
	print_loss("modules whose tables found no room", counters.modules_without_room);
	print_loss("stack ids that came with other frames than before", counters.id_collisions);
	print_loss("stack ids that could not be noted as sent", counters.failed_inserts);
	print_loss("looks at the map that were put off", counters.requests_dropped);
	print_loss("malformed records", counters.records_malformed);

	if (counters.kept_bytes >= FORGET_FROM && stacks->id_count >= 0)
		dwunw_bpf_retain(stacks->bpf, stacks->ids, (size_t)stacks->id_count);
}
/* dwunw-added: end */
