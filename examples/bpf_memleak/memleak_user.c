// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * memleak_user PID: finds the memory that a process allocates from now on and does not free, by complete stack. Prints
 * it when the process ends, or on Ctrl-C.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <search.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>
#include <bpf/libbpf.h>
#include <dwunw/printable.h>
#include <dwunw/process.h>
#include <dwunw/symbolize.h>
#include "memleak.h"
#include "memleak.skel.h"

#define MAX_FRAMES 128

/* Stacks and blocks live in trees of tsearch(3), ordered by their first member. */
struct stack {
	uint64_t hash;
	uint64_t bytes, blocks; /* outstanding */
	dwunw_status end;	/* DWUNW_OK: complete; otherwise why the walk stopped */
	size_t count;
	struct dwunw_frame frames[MAX_FRAMES];
};

struct block {
	uint64_t address, size;
	struct stack *stack;
};

static struct dwunw_context *context;
static struct dwunw_process *process;
static struct dwunw_symbolizer *symbolizer;
static void *stack_tree, *block_tree;
static volatile sig_atomic_t interrupted;

static void on_signal(int signal)
{
	interrupted = signal;
}

static int compare_keys(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The element with this key; a new one, otherwise zeroed, if there is none. */
static void *find_or_add(void **tree, uint64_t key, size_t size)
{
	uint64_t **node = tsearch(&key, tree, compare_keys);

	if (node && *node == &key && (*node = calloc(1, size)))
		**node = key;
	if (!node || !*node)
		err(1, "no room for another stack or block");
	return *node;
}

static void on_free(uint64_t address)
{
	struct block **node = tfind(&address, &block_tree, compare_keys), *block;

	if (!node) /* allocated before the probes were attached, or not by malloc */
		return;
	block = *node;
	block->stack->bytes -= block->size;
	block->stack->blocks--;
	tdelete(&address, &block_tree, compare_keys);
	free(block);
}

static int on_event(void *unused, void *data, size_t size)
{
	static struct stack walked;
	const struct memleak_event *event = data;
	struct dwunw_regset regs;
	struct dwunw_unwind_request request = { .size = sizeof(request),
						.process = process,
						.regs = &regs,
						.frames = walked.frames,
						.max_frames = MAX_FRAMES };
	struct block *block;

	(void)unused;
	on_free(event->address); /* also at an allocation: the record of its free may be lost */
	if (size < sizeof(*event) || !event->address)
		return 0;

	dwunw_regset_from_x86_64_pt_regs(&regs, event->pt_regs);
	request.stack_addr = event->stack_addr;
	request.stack = event->stack;
	request.stack_size = event->stack_size;
	walked.end = dwunw_capture(context, &request, &walked.count);
	walked.hash = walked.end;
	for (size_t i = 0; i < walked.count; i++)
		walked.hash = (walked.hash ^ walked.frames[i].pc) * 0x9e3779b97f4a7c15;
	block = find_or_add(&block_tree, event->address, sizeof(*block));
	block->stack = find_or_add(&stack_tree, walked.hash, sizeof(walked));
	if (!block->stack->count)
		*block->stack = walked;
	block->size = event->size;
	block->stack->bytes += block->size;
	block->stack->blocks++;
	return 0;
}

static void print_stack(const void *node, VISIT visit, int depth)
{
	const struct stack *stack = *(const struct stack *const *)node;

	(void)depth;
	if ((visit != postorder && visit != leaf) || !stack->blocks)
		return;
	printf("%llu bytes in %llu blocks\n", (long long)stack->bytes, (long long)stack->blocks);
	for (size_t i = 0; i < stack->count; i++) {
		const struct dwunw_frame *frame = &stack->frames[i];
		struct dwunw_symbol symbol = { .size = sizeof(symbol), .name = "?" };
		static char name[16384], path[16384]; /* the process chooses them: not safe for the terminal */

		dwunw_symbolize_frame(symbolizer, frame, &symbol);
		dwunw_printable(symbol.name, name, sizeof(name));
		dwunw_printable(frame->module ? dwunw_module_path(frame->module) : "?", path, sizeof(path));
		printf("  #%-2zu %s+0x%llx - %s\n", i, name, (long long)symbol.offset, path);
	}
	printf("  %s\n\n", dwunw_status_string(stack->end));
}

/* The path of the libc that the process maps, through the process's mount namespace. */
static void find_libc(int pid, char *path, size_t size)
{
	char line[4096], *name = NULL;
	FILE *maps;

	snprintf(path, size, "/proc/%d/maps", pid);
	maps = fopen(path, "r");
	while (maps && !name && fgets(line, sizeof(line), maps))
		if (strstr(line, "/libc.so.") || strstr(line, "/libc-2.") || strstr(line, "/ld-musl-"))
			name = strchr(line, '/');
	if (!name)
		errx(1, "%s shows no libc: is the program linked statically?", path);
	fclose(maps);
	name[strcspn(name, "\n")] = '\0';
	snprintf(path, size, "/proc/%d/root%s", pid, name);
}

static void attach(const struct bpf_program *program, const char *function, bool at_return, int pid, const char *path)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = function, .retprobe = at_return);

	if (!bpf_program__attach_uprobe_opts(program, pid, path, 0, &options))
		err(1, "%s in the process's libc", function);
}

int main(int argc, char **argv)
{
	int pid = argc == 2 ? atoi(argv[1]) : 0;
	struct dwunw_process_options options = { .size = sizeof(options), .pid = pid };
	struct memleak_bpf *skel;
	struct ring_buffer *ring;
	struct pollfd ended = { .fd = pidfd_open(pid, 0), .events = POLLIN };
	dwunw_status status;
	char libc[4200], shown[4 * sizeof(libc)];

	if (pid <= 0)
		errx(2, "usage: memleak_user PID");
	if ((status = dwunw_init(NULL, &context)) || (status = dwunw_symbolizer_open(&symbolizer)) ||
	    (status = dwunw_process_open(context, &options, &process)))
		errx(1, "process %d: %s", pid, dwunw_status_string(status));
	find_libc(pid, libc, sizeof(libc));

	if (!(skel = memleak_bpf__open_and_load()) ||
	    !(ring = ring_buffer__new(bpf_map__fd(skel->maps.events), on_event, NULL, NULL)))
		err(1, "loading the BPF programs%s", geteuid() ? ", which needs root" : "");
	attach(skel->progs.free_enter, "free", false, pid, libc);
	attach(skel->progs.free_enter, "realloc", false, pid, libc);
	attach(skel->progs.malloc_exit, "malloc", true, pid, libc);
	attach(skel->progs.malloc_enter, "malloc", false, pid, libc);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	dwunw_printable(libc, shown, sizeof(shown));
	fprintf(stderr, "watching malloc in %s; Ctrl-C ends\n", shown);

	while (!interrupted && poll(&ended, 1, 0) == 0)
		if (ring_buffer__poll(ring, 200 /* ms */) < 0 && errno != EINTR)
			err(1, "ring buffer");
	ring_buffer__consume(ring); /* records between the last poll and the end */
	twalk(stack_tree, print_stack);
	printf("lost, because the ring buffer was full: %llu records\n", (long long)skel->bss->lost);
	if (fflush(stdout) || ferror(stdout))
		err(1, "standard output");
	return 0;
}
