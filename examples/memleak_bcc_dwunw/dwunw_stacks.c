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

#include "dwunw_kernel_stacks.h"
#include "dwunw_output.h"
#include "dwunw_rows.h"

#define MAX_FRAMES 1024
#define STATUSES 64
/* A record that waits for an earlier one comes within this time, if it comes. */
#define LOOKS_FOR_RECORDS 8
/* From this many bytes of stacks on, stacks without blocks are forgotten. */
#define FORGET_FROM (16ull << 20)
/* A report takes time, so it empties the ring buffer now and then. */
#define BLOCKS_BETWEEN_POLLS 256

/* Reasons why a block has no stack, in addition to enum dwunw_bpf_reason. */
enum {
	NOT_KEPT = DWUNW_BPF_REASONS,
	NO_MEMORY,
	REASONS,
};
_Static_assert(REASONS <= 64, "struct dwunw_row has a bit for each");

struct dwunw_stacks {
	enum dwunw_mode mode;
	struct dwunw_context *context;
	struct dwunw_bpf *bpf;
	struct dwunw_symbolizer *symbolizer;
	/* of this report */
	uint64_t started_ns;
	uint64_t min_age_ns;
	uint32_t image;
	int looks_left;
	struct dwunw_rows rows;
	struct dwunw_kernel_stacks kernel;
	uint64_t looked_ns; /* time of the last check whether the process's map has changed */
	/* for the last lines of this report */
	uint64_t distinct;
	uint64_t partial[STATUSES];
	/* ids of all blocks in this report; −1: there was no memory for them */
	uint64_t *ids;
	ssize_t id_count, id_room;
	unsigned int since_poll;		     /* blocks and stacks */
	struct dwunw_frame frames[MAX_FRAMES];	     /* frames of a stack that is new to this report */
	struct dwunw_frame known_frames[MAX_FRAMES]; /* frames of a known stack */
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

/* As dwunw_frames_fn. Ids from 1 << 32 on are dwunw's. */
static size_t frames_of(void *arg, uint64_t id, const struct dwunw_frame **frames)
{
	struct dwunw_stacks *stacks = arg;
	struct dwunw_bpf_stack stack = { .size = sizeof(stack) };

	if (id < DWUNW_STACK_MISSING)
		return dwunw_kernel_stacks__known(&stacks->kernel, (int)id, frames);
	*frames = stacks->known_frames;
	if (dwunw_bpf_lookup(stacks->bpf, id, &stack, stacks->known_frames, MAX_FRAMES) != DWUNW_OK)
		return 0;
	return stack.count < MAX_FRAMES ? stack.count : MAX_FRAMES;
}

bool dwunw_stacks__lack_admin(void)
{
	uint32_t id;

	return bpf_btf_get_next_id(0, &id) && errno == EPERM;
}

int dwunw_stacks__open(struct dwunw_stacks **out, struct bpf_object *object, const struct dwunw_options *options,
		       const char **why)
{
	struct dwunw_bpf_options bpf_options = {
		.size = sizeof(bpf_options),
		.ring_bytes = options->ring_bytes,
		.slice_bytes = options->stack_bytes,
		.kept_bytes = options->kept_bytes,
		.pool_bytes = options->table_bytes,
		.path_limit = options->path_limit,
	};
	struct dwunw_stacks *stacks = calloc(1, sizeof(*stacks));
	dwunw_status status;

	*why = "out of memory";
	if (!stacks)
		return -ENOMEM;
	stacks->mode = options->mode;
	stacks->rows.frames_of = frames_of;
	stacks->rows.arg = stacks;
	if (options->mode == DWUNW_MODE_OFF)
		bpf_options.flags |= DWUNW_BPF_OFF;
	status = dwunw_init(NULL, &stacks->context);
	if (status == DWUNW_OK)
		status = dwunw_symbolizer_open(&stacks->symbolizer);
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

/* The clock that bpf_ktime_get_ns reads. */
static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Reads the map and checks whether it has changed; not within `pause_ns` of the last check. False: unknown. */
static bool look_at_map(struct dwunw_stacks *stacks, uint64_t pause_ns)
{
	const uint64_t now = now_ns();

	if (stacks->mode != DWUNW_MODE_FALLBACK || now - stacks->looked_ns < pause_ns)
		return false;
	stacks->looked_ns = now;
	return dwunw_kernel_stacks__look(&stacks->kernel);
}

int dwunw_stacks__start(struct dwunw_stacks *stacks, int pid, bool verbose, const char **why)
{
	dwunw_status status = dwunw_bpf_start(stacks->bpf);
	char choices[1024];

	if (status == DWUNW_OK)
		status = dwunw_bpf_add_process(stacks->bpf, pid);
	stacks->kernel.bpf = stacks->bpf;
	stacks->kernel.pid = pid;
	look_at_map(stacks, 0);
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
	dwunw_rows__free(&stacks->rows);
	dwunw_kernel_stacks__free(&stacks->kernel);
	dwunw_bpf_close(stacks->bpf);
	dwunw_symbolizer_close(stacks->symbolizer);
	dwunw_shutdown(stacks->context);
	free(stacks);
}

void dwunw_stacks__wait(struct dwunw_stacks *stacks, const struct dwunw_target *target, int interval,
			const volatile sig_atomic_t *exiting)
{
	const uint64_t until_ns = now_ns() + (uint64_t)interval * 1000000000;
	uint64_t now;

	/* A signal also interrupts the poll, and so does the exit's record; what comes just before it is seen within its
	   second. */
	while (!*exiting && !dwunw_target__has_ended(target) && (now = now_ns()) < until_ns) {
		const uint64_t left_ms = (until_ns - now) / 1000000 + 1;

		dwunw_bpf_poll(stacks->bpf, left_ms < 1000 ? (int)left_ms : 1000, NULL);
		look_at_map(stacks, 1000000000);
	}
}

/* Takes in all records that were sent before; does not wait for a target that goes on sending. */
static void take_in(struct dwunw_stacks *stacks)
{
	const uint64_t until_ns = now_ns() + 1000000000;
	size_t taken;

	do
		taken = 0;
	while (dwunw_bpf_poll(stacks->bpf, 0, &taken) == DWUNW_OK && taken && now_ns() < until_ns);
}

void dwunw_stacks__begin_report(struct dwunw_stacks *stacks, uint32_t image, uint64_t min_age_ns)
{
	stacks->started_ns = now_ns();
	stacks->image = image;
	stacks->min_age_ns = min_age_ns;
	stacks->looks_left = LOOKS_FOR_RECORDS;
	stacks->id_count = 0;
	dwunw_rows__clear(&stacks->rows);
	if (look_at_map(stacks, 0))
		stacks->kernel.until_ns = stacks->started_ns;
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

/* The entry of a stack of dwunw's; NULL: there is none, and *lost says why. */
static const struct dwunw_row_id *find_stack(struct dwunw_stacks *stacks, int64_t id, uint32_t *lost)
{
	struct dwunw_bpf_stack stack = { .size = sizeof(stack) };
	const struct dwunw_row_id *entry;
	dwunw_status found;

	if (id <= 0) {
		*lost = id < 0 && -id < DWUNW_BPF_REASONS ? (uint32_t)-id : NOT_KEPT;
		return NULL;
	}
	entry = dwunw_rows__find(&stacks->rows, (uint64_t)id);
	if (entry)
		return entry;
	/* Its record came before the block, but may wait behind one that was unfinished when records were taken in. */
	while ((found = dwunw_bpf_lookup(stacks->bpf, (uint64_t)id, &stack, stacks->frames, MAX_FRAMES)) ==
		       DWUNW_ERR_NOT_FOUND &&
	       stacks->looks_left-- > 0)
		dwunw_bpf_poll(stacks->bpf, 10, NULL);
	*lost = NOT_KEPT;
	if (found != DWUNW_OK)
		return NULL;
	*lost = NO_MEMORY;
	return dwunw_rows__add(&stacks->rows, (uint64_t)id, stack.status, stacks->frames,
			       stack.count < MAX_FRAMES ? stack.count : MAX_FRAMES);
}

/*
 * A stack of dwunw's is always shown, also a partial one. The kernel's stack is another guess at the same chain: it is
 * shown only for blocks without a better one, and only if the process's code confirms it.
 */
uint64_t dwunw_stacks__row_of(struct dwunw_stacks *stacks, const struct alloc_info *info, int kernel_stack_map,
			      uint64_t *kernel_ips, size_t max_ips)
{
	const struct dwunw_row_id *entry;
	const struct dwunw_frame *frames;
	struct dwunw_row *row;
	uint32_t lost = 0;
	size_t count;

	note_id(stacks, info->dwunw_id);
	if (info->timestamp_ns + stacks->min_age_ns > stacks->started_ns || info->dwunw_image != stacks->image)
		return DWUNW_STACK_SKIPPED;
	entry = find_stack(stacks, info->dwunw_id, &lost);
	if (entry) {
		row = &stacks->rows.rows[entry->row];
		row->by_dwunw = true;
		row->id = (uint64_t)info->dwunw_id;
		if (entry->status == DWUNW_OK)
			row->whole++;
		else
			row->partial |= 1ull << (entry->status < STATUSES ? entry->status : STATUSES - 1);
		return entry->row;
	}
	if (stacks->mode != DWUNW_MODE_FALLBACK)
		return DWUNW_STACK_MISSING + lost;
	count = dwunw_kernel_stacks__get(&stacks->kernel, kernel_stack_map, info->stack_id, info->timestamp_ns, kernel_ips,
					 max_ips, &frames);
	if (!count)
		return DWUNW_STACK_MISSING + lost;
	entry = dwunw_rows__find(&stacks->rows, (uint64_t)info->stack_id);
	if (!entry)
		entry = dwunw_rows__add(&stacks->rows, (uint64_t)info->stack_id, DWUNW_OK, frames, count);
	if (!entry)
		return DWUNW_STACK_MISSING + NO_MEMORY;
	row = &stacks->rows.rows[entry->row];
	row->by_kernel++;
	row->lost |= 1ull << lost;
	return entry->row;
}

static const char *reason_string(uint32_t reason)
{
	switch (reason) {
	case NOT_KEPT:
		return "its record was lost or found no room";
	case NO_MEMORY:
		return "no memory for its row";
	default:
		return dwunw_bpf_reason_string(reason);
	}
}

static void print_frame(struct dwunw_stacks *stacks, size_t i, const struct dwunw_frame *frame)
{
	struct dwunw_symbol symbol = { .size = sizeof(symbol) };
	const char *mark = frame->source == DWUNW_SOURCE_FRAME_POINTER ? " [frame pointer]"
			   : frame->source == DWUNW_SOURCE_CODE	       ? " [code]"
								       : "";

	printf("\t%zu [<%016lx>] ", i, frame->pc);
	if (!frame->module) {
		printf("<null sym>%s\n", mark);
		return;
	}
	if (dwunw_symbolize_frame(stacks->symbolizer, frame, &symbol) == DWUNW_OK) {
		dwunw_output__text(stdout, symbol.name);
		printf("+0x%lx ", symbol.offset);
	}
	printf("[");
	dwunw_output__text(stdout, dwunw_module_path(frame->module));
	printf("]%s\n", mark);
}

static void print_kernel_blocks(const struct dwunw_row *row)
{
	const char *separator = ": ";

	if (row->by_dwunw)
		printf("\t[of these, %" PRIu64 " by the kernel's frame pointers, because dwunw's stack was lost", row->by_kernel);
	else
		printf("\t[kernel frame-pointer stack, because dwunw's was lost");
	for (uint32_t reason = 0; reason < REASONS; reason++) {
		if (!(row->lost >> reason & 1))
			continue;
		printf("%s%s", separator, reason_string(reason));
		separator = ", ";
	}
	printf("]\n");
}

void dwunw_stacks__print(struct dwunw_stacks *stacks, uint64_t number)
{
	const struct dwunw_frame *frames;
	const struct dwunw_row *row;
	size_t count;

	/* A stack with its names and blocks takes some sixteen times as long as a block. */
	note_id(stacks, 0);
	stacks->since_poll += 15;
	if (number >= DWUNW_STACK_MISSING) {
		printf("\t[no stack: %s]\n", reason_string((uint32_t)(number - DWUNW_STACK_MISSING)));
		return;
	}
	row = &stacks->rows.rows[number];
	if (row->by_kernel)
		print_kernel_blocks(row);
	count = frames_of(stacks, row->id, &frames);
	for (size_t i = 0; i < count; i++)
		print_frame(stacks, i, &frames[i]);
	for (uint32_t status = 1; status < STATUSES; status++)
		if (row->partial >> status & 1)
			printf("\t[%s: %s]\n", row->whole ? "partial for some" : "partial",
			       dwunw_status_string((dwunw_status)status));
}

static void count_stack(void *arg, uint64_t id)
{
	struct dwunw_stacks *stacks = arg;
	struct dwunw_bpf_stack stack = { .size = sizeof(stack) };

	/* The first of the ids of one stack. */
	if (dwunw_bpf_lookup(stacks->bpf, id, &stack, NULL, 0) != DWUNW_OK || stack.id != id)
		return;
	stacks->distinct++;
	stacks->partial[stack.status < STATUSES ? stack.status : STATUSES - 1]++;
}

/* The option that raises the limit behind such a loss; NULL: there is none. */
static const char *option_against(uint32_t reason)
{
	switch (reason) {
	case DWUNW_BPF_DROPPED:
		return "--dwunw-ring-size";
	case DWUNW_BPF_LIMITED:
		return "--dwunw-path-limit";
	default:
		return NULL;
	}
}

/* Prints "NAME: n [why: m] …; raise OPTION" for the reasons from `first` to `last`, unless all counts are 0. */
static void print_reasons(const char *name, const struct dwunw_bpf_counters *counters, uint32_t first, uint32_t last)
{
	const char *separator = "; raise ";
	uint64_t sum = 0;

	for (uint32_t reason = first; reason <= last; reason++)
		sum += counters->reasons[reason];
	if (!sum)
		return;
	printf("dwunw: %s: %" PRIu64, name, sum);
	for (uint32_t reason = first; reason <= last; reason++)
		if (counters->reasons[reason])
			printf(" [%s: %" PRIu64 "]", dwunw_bpf_reason_string(reason), counters->reasons[reason]);
	for (uint32_t reason = first; reason <= last; reason++)
		if (counters->reasons[reason] && option_against(reason)) {
			printf("%s%s", separator, option_against(reason));
			separator = ", ";
		}
	printf("\n");
}

/* `option` raises the limit; NULL: there is none. */
static void print_loss(const char *what, uint64_t count, const char *option)
{
	if (count)
		printf("dwunw: %s: %" PRIu64 "%s%s\n", what, count, option ? "; raise " : "", option ? option : "");
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

	print_reasons("sent to user space", &counters, DWUNW_BPF_COMPLETE + 1, DWUNW_BPF_FORCED - 1);
	print_reasons("without a stack", &counters, DWUNW_BPF_LAST_FALLBACK + 1, DWUNW_BPF_REASONS - 1);
	print_loss("blocks that found the map of outstanding blocks full", blocks_lost, "--dwunw-blocks");
	print_loss("calls that found no memory", counters.lost_calls, NULL);
	print_loss("calls not followed, because another may be pending on another stack", counters.other_stack_calls, NULL);
	print_loss("calls that ended without a return, as by longjmp", counters.abandoned_calls, NULL);
	print_loss("stacks that found no room", counters.lost_to_memory, "--dwunw-kept-size");
	print_loss("modules whose tables found no room", counters.modules_without_room, "--dwunw-table-size");
	print_loss("stack ids that came again with other frames", counters.id_collisions, NULL);
	print_loss("stack ids that could not be noted as sent", counters.failed_inserts, NULL);
	print_loss("readings of the map that were postponed", counters.requests_dropped, "--dwunw-ring-size");
	print_loss("malformed records", counters.records_malformed, NULL);

	if (counters.kept_bytes >= FORGET_FROM && stacks->id_count >= 0)
		dwunw_bpf_retain(stacks->bpf, stacks->ids, (size_t)stacks->id_count);
}
/* dwunw-added: end */
