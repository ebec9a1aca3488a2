// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * memleak: outstanding memory allocations, by stack.
 *
 * Written anew from the behaviour of memleak in bcc's libbpf-tools. It has the same structure, so that a reader who
 * knows that program knows this one.
 */
/* dwunw-added: what dwunw adds is marked as this line is; README.md tells how to search for it and how to take it out */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h> /* dwunw-added: each module of the target is one open file */
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "dwunw_allocators.h"	   /* dwunw-added: whether there is anything to see */
#include "dwunw_options.h"	   /* dwunw-added: the switches of the DWARF path */
#include "dwunw_output.h"	   /* dwunw-added: what is printed is checked */
#include "dwunw_probes.h"	   /* dwunw-added: probes where they cost least */
#include "dwunw_stacks.h"	   /* dwunw-added: stack ids into rows */
#include "dwunw_target.h"	   /* dwunw-added: whether the process has ended */
#include <dwunw/bpf/dwunw_types.h> /* dwunw-added: flags of the walk */
#include <dwunw/bpf_attach.h>	   /* dwunw-added: how returns are seen */
#include "memleak_dwunw.h"
#include "memleak_dwunw.skel.h"
#include "trace_helpers.h"

static struct env {
	int interval;
	int nr_intervals;
	pid_t pid;
	bool trace_all;
	bool show_allocs;
	bool combined_only;
	long min_age_ns;
	uint64_t sample_rate;
	int top_stacks;
	size_t min_size;
	size_t max_size;
	char object[32];

	bool wa_missing_free;
	bool percpu;
	int perf_max_stack_depth;
	int stack_map_max_entries;
	long page_size;
	bool kernel_trace;
	bool verbose;
	char command[32];
	char symbols_prefix[16];
} env = {
	.interval = 5,
	.nr_intervals = -1,
	.pid = -1,
	.min_age_ns = 500,
	.sample_rate = 1,
	.top_stacks = 10,
	.max_size = -1,
	.perf_max_stack_depth = 127,
	.stack_map_max_entries = 10240,
	.page_size = 1,
};

struct allocation_node {
	uint64_t address;
	size_t size;
	struct allocation_node *next;
};

struct allocation {
	uint64_t stack_id;
	size_t size;
	size_t count;
	struct allocation_node *allocations;
};

#define ALLOCS_BATCH 4096
#define ALLOCS_ENTRIES dwunw_options.blocks // dwunw-added: --dwunw-blocks; plain: #define ALLOCS_ENTRIES ALLOCS_MAX_ENTRIES
#define ALLOC_INDEX_ENTRIES (2 * (size_t)ALLOCS_ENTRIES)

#define ATTACH_UPROBE(skel, sym_name, prog_name, is_retprobe)                                               \
	({                                                                                                  \
		char sym[32];                                                                               \
		LIBBPF_OPTS(bpf_uprobe_opts, uprobe_opts, .func_name = sym, .retprobe = is_retprobe);       \
		snprintf(sym, sizeof(sym), "%s%s", env.symbols_prefix, #sym_name);                          \
		(skel)->links.prog_name = bpf_program__attach_uprobe_opts((skel)->progs.prog_name, env.pid, \
									  env.object, 0, &uprobe_opts);     \
		(skel)->links.prog_name ? 0 : -errno;                                                       \
	})

#define ATTACH_UPROBE_CHECKED(skel, sym_name, prog_name, is_retprobe)                         \
	do {                                                                                  \
		const int attach_err = ATTACH_UPROBE(skel, sym_name, prog_name, is_retprobe); \
		if (attach_err) {                                                             \
			errno = -attach_err;                                                  \
			perror("no program attached for " #prog_name);                        \
			return attach_err;                                                    \
		}                                                                             \
	} while (0)

#define ATTACH_PAIR(skel, sym_name)                                \
	(ATTACH_UPROBE(skel, sym_name, sym_name##_enter, false) || \
	 ATTACH_UPROBE(skel, sym_name, sym_name##_exit, true))

#define ATTACH_PAIR_CHECKED(skel, sym_name)                                     \
	do {                                                                    \
		ATTACH_UPROBE_CHECKED(skel, sym_name, sym_name##_enter, false); \
		ATTACH_UPROBE_CHECKED(skel, sym_name, sym_name##_exit, true);   \
	} while (0)

static volatile sig_atomic_t exiting;
static volatile sig_atomic_t child_exited;

static pid_t child_pid = -1;
static int child_exec_event_fd = -1;

static struct ksyms *ksyms;
static struct syms_cache *syms_cache;
static void (*print_stack_frames_func)(void);
static uint64_t *stack;
static struct allocation *allocs;
static uint32_t *alloc_index;
static struct dwunw_stacks *dwunw_opened; /* dwunw-added: whatever the mode */
static struct dwunw_stacks *dwunw;	  /* dwunw-added: the same, NULL where the mode is off */
static struct dwunw_probes *dwunw_probes; /* dwunw-added: the probes */
static bool use_dwunw_probes;		  /* dwunw-added: and not those of attach_uprobes */
static struct dwunw_target dwunw_target;  /* dwunw-added: the process, 0: the kernel */
static const char *dwunw_object_given;	  /* dwunw-added: as the user wrote it */
static sigset_t dwunw_signals;		  /* dwunw-added: that were blocked when this program started */

static const char default_object[] = "libc.so.6";

const char *argp_program_version = "memleak 0.1";
const char *argp_program_bug_address = "https://github.com/iovisor/bcc/tree/master/libbpf-tools";

static const char argp_args_doc[] =
	"Shows the memory that a process, or the kernel, has allocated and not freed, by the stack that allocated it.\n"
	"\n"
	"EXAMPLES:\n"
	"memleak -p 1234           a process, every 5 seconds\n"
	"memleak -a -p 1234 10 3   each block with its address and size, three reports 10 seconds apart\n"
	"memleak -c /usr/bin/prog  run a program (its path, without arguments) and watch it\n"
	"memleak -s 100 -p 1234    look at about one in a hundred allocations\n"
	"memleak                   the kernel's own allocations\n";

enum {
	OPT_PERF_MAX_STACK_DEPTH = 1,
	OPT_STACK_STORAGE_SIZE,
};

static const struct argp_option argp_options[] = {
	{ "pid", 'p', "PID", 0, "process to trace; without it and -c, the kernel's allocations", 0 },
	{ "trace", 't', 0, 0, "write a line to the trace pipe for each allocation and free", 0 },
	{ "show-allocs", 'a', 0, 0, "show address and size of each block", 0 },
	{ "older", 'o', "AGE_MS", 0, "leave out blocks younger than this", 0 },
	{ "command", 'c', "COMMAND", 0, "run this command and trace it", 0 },
	{ "combined-only", 'C', 0, 0, "show totals by stack only", 0 },
	{ "wa-missing-free", 'F', 0, 0, "for kernel allocators whose frees are missed: a new block ends the old one", 0 },
	{ "sample-rate", 's', "SAMPLE_RATE", 0, "look at one in so many allocations", 0 },
	{ "top", 'T', "TOP_STACKS", 0, "show this many stacks", 0 },
	{ "min-size", 'z', "MIN_SIZE", 0, "only allocations of this size or more", 0 },
	{ "max-size", 'Z', "MAX_SIZE", 0, "only allocations of this size or less", 0 },
	{ "obj", 'O', "OBJECT", 0, "the object that holds the allocator's functions", 0 },
	{ "percpu", 'P', NULL, 0, "trace the kernel's percpu allocations as well", 0 },
	{ "symbols-prefix", 'S', "SYMBOLS_PREFIX", 0, "what the allocator's function names begin with", 0 },
	{ "verbose", 'v', NULL, 0, "show libbpf's debug lines", 0 },
	{ "perf-max-stack-depth", OPT_PERF_MAX_STACK_DEPTH, "PERF-MAX-STACK-DEPTH", 0,
	  "frames of a kernel or frame-pointer stack (127)", 0 },
	{ "stack-storage-size", OPT_STACK_STORAGE_SIZE, "STACK-STORAGE-SIZE", 0,
	  "distinct kernel or frame-pointer stacks that are kept (10240)", 0 },
	{},
};

static long argp_parse_long(int key, const char *arg, struct argp_state *state)
{
	long temp;

	errno = 0;
	temp = strtol(arg, NULL, 10);
	if (errno || temp <= 0) {
		fprintf(stderr, "error arg:%c %s\n", (char)key, arg);
		argp_usage(state);
	}
	return temp;
}

static error_t argp_parse_arg(int key, char *arg, struct argp_state *state)
{
	static int pos_args;

	switch (key) {
	case 'p':
		env.pid = (pid_t)argp_parse_long(key, arg, state);
		break;
	case 't':
		env.trace_all = true;
		break;
	case 'a':
		env.show_allocs = true;
		break;
	case 'o':
		env.min_age_ns = argp_parse_long(key, arg, state);
		if (__builtin_mul_overflow(env.min_age_ns, 1000000l, &env.min_age_ns)) {
			fprintf(stderr, "invalid AGE_MS: %s\n", arg);
			argp_usage(state);
		}
		break;
	case 'c':
		strncpy(env.command, arg, sizeof(env.command) - 1);
		break;
	case 'C':
		env.combined_only = true;
		break;
	case 'F':
		env.wa_missing_free = true;
		break;
	case 's':
		env.sample_rate = (uint64_t)argp_parse_long(key, arg, state);
		break;
	case 'S':
		strncpy(env.symbols_prefix, arg, sizeof(env.symbols_prefix) - 1);
		break;
	case 'T':
		env.top_stacks = (int)argp_parse_long(key, arg, state);
		break;
	case 'z':
		env.min_size = (size_t)argp_parse_long(key, arg, state);
		break;
	case 'Z':
		env.max_size = (size_t)argp_parse_long(key, arg, state);
		break;
	case 'O':
		strncpy(env.object, arg, sizeof(env.object) - 1);
		dwunw_object_given = arg; /* dwunw-added: it may be cut */
		break;
	case 'P':
		env.percpu = true;
		break;
	case 'v':
		env.verbose = true;
		break;
	case OPT_PERF_MAX_STACK_DEPTH:
		env.perf_max_stack_depth = (int)argp_parse_long(key, arg, state);
		break;
	case OPT_STACK_STORAGE_SIZE:
		env.stack_map_max_entries = (int)argp_parse_long(key, arg, state);
		break;
	case ARGP_KEY_ARG:
		pos_args++;
		if (pos_args == 1) {
			env.interval = (int)argp_parse_long(0, arg, state);
		} else if (pos_args == 2) {
			env.nr_intervals = (int)argp_parse_long(0, arg, state);
		} else {
			fprintf(stderr, "Unrecognized positional argument: %s\n", arg);
			argp_usage(state);
		}
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int libbpf_print_fn(enum libbpf_print_level level, const char *format, va_list args)
{
	if (level == LIBBPF_DEBUG && !env.verbose)
		return 0;
	return vfprintf(stderr, format, args);
}

static void sig_handler(int signo)
{
	if (signo == SIGCHLD)
		child_exited = 1;
	exiting = 1;
}

static int event_init(int *fd)
{
	const int tmp_fd = eventfd(0, EFD_CLOEXEC);

	if (tmp_fd < 0) {
		perror("failed to create event fd");
		return -errno;
	}
	*fd = tmp_fd;
	return 0;
}

static int event_wait(int fd, uint64_t expected_event)
{
	uint64_t event = 0;

	if (read(fd, &event, sizeof(event)) != sizeof(event)) {
		perror("failed to wait on event fd");
		return -1;
	}
	if (event != expected_event) {
		fprintf(stderr, "unexpected event value: %lu\n", event);
		return -1;
	}
	return 0;
}

static int event_notify(int fd, uint64_t event)
{
	if (write(fd, &event, sizeof(event)) != sizeof(event)) {
		perror("failed to write to event fd");
		return -1;
	}
	return 0;
}

/* dwunw-added: begin SIGTERM ends a run as SIGINT does */
static void dwunw_block_sigterm(void)
{
	sigset_t sigterm;

	sigemptyset(&sigterm);
	sigaddset(&sigterm, SIGTERM);
	sigprocmask(SIG_BLOCK, &sigterm, &dwunw_signals);
}

static void dwunw_catch_sigterm(void)
{
	const struct sigaction sig_action = { .sa_handler = sig_handler, .sa_flags = SA_RESTART };

	if (sigaction(SIGTERM, &sig_action, NULL))
		perror("failed to set up handling of SIGTERM");
	if (child_pid > 0)
		sigprocmask(SIG_SETMASK, &dwunw_signals, NULL);
}
/* dwunw-added: end */

/* The child waits for the probes to be in place before it becomes the command. */
static pid_t fork_sync_exec(const char *command, int fd)
{
	pid_t pid;

	fflush(stdout);	       /* otherwise parent and child would both print it */
	dwunw_block_sigterm(); /* dwunw-added: the child must not take it for its own */
	pid = fork();
	switch (pid) {
	case -1:
		perror("failed to create child process");
		break;
	case 0:
		sigprocmask(SIG_SETMASK, &dwunw_signals, NULL); /* dwunw-added: it ends by it */
		if (event_wait(fd, 1) < 0) {
			fprintf(stderr, "failed to wait for go event\n");
			return -1;
		}
		printf("received go event. executing child command\n");
		fflush(stdout);
		if (execl(command, command, NULL))
			fprintf(stderr, "failed to execute child command: %s\n", strerror(errno));
		errno = EINVAL;
		return -1;
	default:
		printf("child created with pid: %d\n", pid);
		break;
	}
	return pid;
}

static void print_stack_frames_by_ksyms(void)
{
	for (int i = 0; i < env.perf_max_stack_depth; i++) {
		const uint64_t addr = stack[i];
		const struct ksym *ksym;

		if (addr == 0)
			break;
		ksym = ksyms__map_addr(ksyms, addr);
		if (ksym)
			printf("\t%d [<%016lx>] %s+0x%lx\n", i, addr, ksym->name, addr - ksym->addr);
		else
			printf("\t%d [<%016lx>] <%s>\n", i, addr, "null sym");
	}
}

static void print_stack_frames_by_syms_cache(void)
{
	struct syms *syms = syms_cache__get_syms(syms_cache, env.pid);

	if (!syms) {
		fprintf(stderr, "Failed to get syms\n");
		return;
	}

	for (int i = 0; i < env.perf_max_stack_depth; i++) {
		const uint64_t addr = stack[i];
		struct sym_info sinfo;

		if (addr == 0)
			break;
		if (syms__map_addr_dso(syms, addr, &sinfo))
			printf("\t%d [<%016lx>] <%s>\n", i, addr, "null sym");
		else if (sinfo.sym_name)
			printf("\t%d [<%016lx>] %s+0x%lx [%s]\n", i, addr, sinfo.sym_name, sinfo.sym_offset,
			       sinfo.dso_name);
		else
			printf("\t%d [<%016lx>] [%s]\n", i, addr, sinfo.dso_name);
	}
}

static void print_stack_frames(struct allocation *alloc_list, size_t nr_allocs, int stack_traces_fd)
{
	for (size_t i = 0; i < nr_allocs; i++) {
		const struct allocation *alloc = &alloc_list[i];

		printf("%zu bytes in %zu allocations from stack\n", alloc->size, alloc->count);
		if (env.show_allocs)
			for (const struct allocation_node *it = alloc->allocations; it; it = it->next)
				printf("\taddr = %#lx size = %zu\n", it->address, it->size);

		/* dwunw-added: begin what is a row and has which stack is known there */
		if (dwunw) {
			dwunw_stacks__print(dwunw, alloc->stack_id);
			continue;
		}
		/* dwunw-added: end */
		if (bpf_map_lookup_elem(stack_traces_fd, &alloc->stack_id, stack)) {
			if (errno == ENOENT)
				continue;
			perror("failed to lookup stack trace");
			return;
		}
		print_stack_frames_func();
	}
}

static int alloc_size_compare(const void *a, const void *b)
{
	const struct allocation *x = a;
	const struct allocation *y = b;

	return (y->size > x->size) - (y->size < x->size);
}

static void print_report(struct allocation *alloc_list, size_t nr_allocs, int stack_traces_fd)
{
	const time_t t = time(NULL);
	const struct tm *tm = localtime(&t);
	size_t nr_to_show = nr_allocs;

	if (nr_to_show > (size_t)env.top_stacks)
		nr_to_show = (size_t)env.top_stacks;
	if (nr_allocs)
		qsort(alloc_list, nr_allocs, sizeof(alloc_list[0]), alloc_size_compare);
	printf("[%d:%d:%d] Top %zu stacks with outstanding allocations:\n", tm->tm_hour, tm->tm_min, tm->tm_sec,
	       nr_to_show);
	print_stack_frames(alloc_list, nr_to_show, stack_traces_fd);
}

static void free_allocations(struct allocation *alloc_list, size_t nr_allocs)
{
	for (size_t i = 0; i < nr_allocs; i++) {
		struct allocation_node *it = alloc_list[i].allocations;

		while (it) {
			struct allocation_node *next = it->next;

			free(it);
			it = next;
		}
	}
}

/* By stack id, in a table of indexes (0: none) with room for twice as many as there can be. */
static struct allocation *find_or_add_allocation(size_t *nr_allocs, uint64_t stack_id)
{
	size_t slot = (stack_id * 0x9e3779b97f4a7c15ull) % ALLOC_INDEX_ENTRIES;
	struct allocation *alloc;

	while (alloc_index[slot]) {
		alloc = &allocs[alloc_index[slot] - 1];
		if (alloc->stack_id == stack_id)
			return alloc;
		slot = (slot + 1) % ALLOC_INDEX_ENTRIES;
	}
	if (*nr_allocs == ALLOCS_ENTRIES)
		return NULL;
	alloc = &allocs[(*nr_allocs)++];
	alloc_index[slot] = (uint32_t)*nr_allocs;
	memset(alloc, 0, sizeof(*alloc));
	alloc->stack_id = stack_id;
	return alloc;
}

static int add_outstanding_alloc(size_t *nr_allocs, uint64_t address, const struct alloc_info *info, uint64_t stack_id)
{
	struct allocation *alloc = find_or_add_allocation(nr_allocs, stack_id);
	struct allocation_node *node;

	if (!alloc)
		return 0;
	alloc->size += info->size;
	alloc->count++;
	if (!env.show_allocs)
		return 0;
	node = malloc(sizeof(*node));
	if (!node) {
		perror("malloc failed");
		return -ENOMEM;
	}
	node->address = address;
	node->size = info->size;
	node->next = alloc->allocations;
	alloc->allocations = node;
	return 0;
}

/*
 * Reads the map in batches of whole buckets. A reading key by key starts from the beginning whenever the target has
 * just freed the last key's block: it would count blocks twice, and never end for a busy target.
 */
static int print_outstanding_allocs(int allocs_fd, int stack_traces_fd)
{
	static uint64_t keys[ALLOCS_BATCH];
	static struct alloc_info infos[ALLOCS_BATCH];
	uint32_t position = 0, next_position = 0;
	bool first = true, last = false;
	struct timespec now;
	size_t nr_allocs = 0;
	uint64_t now_ns;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	memset(alloc_index, 0, ALLOC_INDEX_ENTRIES * sizeof(*alloc_index));

	while (!last) {
		uint32_t count = ALLOCS_BATCH;

		if (bpf_map_lookup_batch(allocs_fd, first ? NULL : &position, &next_position, keys, infos, &count,
					 NULL)) {
			if (errno != ENOENT) {
				perror("map lookup error");
				err = -errno;
				goto out;
			}
			last = true;
		}
		first = false;
		position = next_position;

		for (uint32_t i = 0; i < count; i++) {
			uint64_t stack_id = (uint64_t)infos[i].stack_id;

			/* dwunw-added: begin rows are call chains, under whatever ids */
			if (dwunw)
				stack_id = dwunw_stacks__row_of(dwunw, &infos[i], stack_traces_fd, stack,
								(size_t)env.perf_max_stack_depth);
			/* dwunw-added: end */
			if (now_ns < infos[i].timestamp_ns + (uint64_t)env.min_age_ns)
				continue;
			if ((int64_t)stack_id < 0)
				continue;
			err = add_outstanding_alloc(&nr_allocs, keys[i], &infos[i], stack_id);
			if (err)
				goto out;
		}
	}

	print_report(allocs, nr_allocs, stack_traces_fd);
out:
	free_allocations(allocs, nr_allocs);
	return err;
}

static int print_outstanding_combined_allocs(int combined_allocs_fd, int stack_traces_fd)
{
	uint64_t prev_key = 0, curr_key = 0;
	bool first = true;
	size_t nr_allocs = 0;

	while (true) {
		union combined_alloc_info combined_alloc_info = {};

		if (bpf_map_get_next_key(combined_allocs_fd, first ? NULL : &prev_key, &curr_key)) {
			if (errno == ENOENT)
				break; /* no more keys */
			perror("map get next key error");
			return -errno;
		}
		first = false;
		prev_key = curr_key;
		if (bpf_map_lookup_elem(combined_allocs_fd, &curr_key, &combined_alloc_info)) {
			if (errno == ENOENT)
				continue;
			perror("map lookup error");
			return -errno;
		}
		allocs[nr_allocs++] = (struct allocation){
			.stack_id = curr_key,
			.size = combined_alloc_info.total_size,
			.count = combined_alloc_info.number_of_allocs,
		};
	}

	print_report(allocs, nr_allocs, stack_traces_fd);
	return 0;
}

static bool has_kernel_node_tracepoints(void)
{
	static const char *const dirs[] = { "/sys/kernel/tracing", "/sys/kernel/debug/tracing" };
	static const char *const names[] = { "kmalloc_node", "kmem_cache_alloc_node" };

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		size_t found = 0;

		for (size_t j = 0; j < sizeof(names) / sizeof(names[0]); j++) {
			char path[128];

			snprintf(path, sizeof(path), "%s/events/kmem/%s/id", dirs[i], names[j]);
			found += access(path, F_OK) == 0;
		}
		if (found == sizeof(names) / sizeof(names[0]))
			return true;
	}
	return false;
}

static void disable_kernel_node_tracepoints(struct memleak_dwunw_bpf *skel)
{
	bpf_program__set_autoload(skel->progs.memleak__kmalloc_node, false);
	bpf_program__set_autoload(skel->progs.memleak__kmem_cache_alloc_node, false);
}

static void disable_kernel_percpu_tracepoints(struct memleak_dwunw_bpf *skel)
{
	bpf_program__set_autoload(skel->progs.memleak__percpu_alloc_percpu, false);
	bpf_program__set_autoload(skel->progs.memleak__percpu_free_percpu, false);
}

static void disable_kernel_tracepoints(struct memleak_dwunw_bpf *skel)
{
	bpf_program__set_autoload(skel->progs.memleak__kmalloc, false);
	bpf_program__set_autoload(skel->progs.memleak__kfree, false);
	bpf_program__set_autoload(skel->progs.memleak__kmem_cache_alloc, false);
	bpf_program__set_autoload(skel->progs.memleak__kmem_cache_free, false);
	bpf_program__set_autoload(skel->progs.memleak__mm_page_alloc, false);
	bpf_program__set_autoload(skel->progs.memleak__mm_page_free, false);
	disable_kernel_node_tracepoints(skel);
	disable_kernel_percpu_tracepoints(skel);
}

static int attach_uprobes(struct memleak_dwunw_bpf *skel)
{
	ATTACH_PAIR_CHECKED(skel, malloc);
	ATTACH_PAIR_CHECKED(skel, calloc);
	ATTACH_PAIR_CHECKED(skel, realloc);

	/* An allocator with a prefix of its own has no mmap family as a rule. */
	if (env.symbols_prefix[0]) {
		(void)ATTACH_PAIR(skel, mmap);
		(void)(ATTACH_UPROBE(skel, mremap, mmap_enter, false) || ATTACH_UPROBE(skel, mremap, mmap_exit, true));
	} else {
		ATTACH_PAIR_CHECKED(skel, mmap);
		ATTACH_PAIR_CHECKED(skel, mremap);
	}

	ATTACH_PAIR_CHECKED(skel, posix_memalign);
	ATTACH_PAIR_CHECKED(skel, memalign);
	ATTACH_UPROBE_CHECKED(skel, free, free_enter, false);

	if (env.symbols_prefix[0])
		(void)ATTACH_UPROBE(skel, munmap, munmap_enter, false);
	else
		ATTACH_UPROBE_CHECKED(skel, munmap, munmap_enter, false);

	/* Not every allocator has these. */
	(void)ATTACH_PAIR(skel, valloc);
	(void)ATTACH_PAIR(skel, pvalloc);
	(void)ATTACH_PAIR(skel, aligned_alloc);
	return 0;
}

/* dwunw-added: begin whether the DWARF path can run; if it cannot, fallback mode goes on as off, force mode ends */
static const char *dwunw_off_because; /* fallback mode has become off; else NULL */

static int dwunw_give_up(const char *why, int err)
{
	if (dwunw_options.mode == DWUNW_MODE_FORCE) {
		fprintf(stderr, "DWARF unwinding can't start: %s\n", why);
		return err;
	}
	fprintf(stderr, "DWARF unwinding can't start: %s; going on with frame-pointer stacks (--dwunw-mode=off)\n", why);
	dwunw_options.mode = DWUNW_MODE_OFF;
	dwunw_off_because = why;
	return 0;
}

/* What is fixed before the load. */
static int dwunw_prepare(struct memleak_dwunw_bpf *skel)
{
	struct rlimit files;
	const char *why;
	int err;

	if (env.kernel_trace && dwunw_options.mode == DWUNW_MODE_FORCE)
		return dwunw_give_up("it is for a process's allocations (-p or -c), the kernel's stacks need none", -EINVAL);
	if (env.kernel_trace)
		dwunw_options.mode = DWUNW_MODE_OFF;
	if (dwunw_options.mode != DWUNW_MODE_OFF && !getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	err = dwunw_stacks__open(&dwunw_opened, skel->obj, &dwunw_options, &why);
	if (err && err != -EPERM && dwunw_options.mode == DWUNW_MODE_FALLBACK) {
		struct dwunw_options off = { .mode = DWUNW_MODE_OFF };
		const char *why_off;

		if (!dwunw_stacks__open(&dwunw_opened, skel->obj, &off, &why_off))
			err = dwunw_give_up(why, err);
	}
	/* Who may not do that may not load either, which says so. */
	if (err && err != -EPERM) {
		fprintf(stderr, "memleak can't start: %s\n", why);
		return err;
	}
	skel->rodata->dwunw_mode = (int)dwunw_options.mode;
	skel->rodata->dwunw_walk_flags = dwunw_options.user_walk ? DWUNW_USER_ONLY : 0;
	/* Without DWARF, probes are bcc's unless asked for otherwise. */
	use_dwunw_probes = !env.kernel_trace &&
			   (dwunw_options.mode != DWUNW_MODE_OFF ||
			    (dwunw_options.probes_as_asked && !dwunw_options.probes_at_entry));
	/* What is not used need not take memory. */
	if (use_dwunw_probes) {
		bpf_map__set_max_entries(skel->maps.sizes, 1);
		bpf_map__set_max_entries(skel->maps.memptrs, 1);
	}
	bpf_map__set_max_entries(skel->maps.allocs, dwunw_options.blocks);
	if (dwunw_options.mode != DWUNW_MODE_OFF)
		bpf_map__set_max_entries(skel->maps.combined_allocs, 1);
	if (dwunw_options.mode == DWUNW_MODE_FORCE)
		bpf_map__set_max_entries(skel->maps.stack_traces, 1);
	/* At a return instruction the kernel's own walk leaves out the caller; bcc's return probes do not. */
	if (dwunw_options.mode == DWUNW_MODE_OFF && dwunw_options.returns == DWUNW_ATTACH_RETURNS_AUTO)
		dwunw_options.returns = DWUNW_ATTACH_RETURN_PROBES;
	err = dwunw_probes__prepare(&dwunw_probes, skel->obj, use_dwunw_probes, dwunw_options.returns, env.verbose);
	if (err)
		return err;
	skel->rodata->dwunw_returns_by_instruction = dwunw_probes__by_instruction(dwunw_probes);
	return 0;
}

static void dwunw_cleanup(void)
{
	dwunw_probes__free(dwunw_probes);
	dwunw_stacks__free(dwunw_opened);
	dwunw_probes = NULL;
	dwunw_opened = dwunw = NULL;
}

static int dwunw_start(void)
{
	const char *why;
	int err;

	if (dwunw_options.mode == DWUNW_MODE_OFF)
		return 0;
	err = dwunw_stacks__start(dwunw_opened, env.pid, env.verbose, &why);
	if (err)
		return dwunw_give_up(why, err);
	dwunw = dwunw_opened;
	return 0;
}

static int attach_probes(struct memleak_dwunw_bpf *skel)
{
	if (!use_dwunw_probes)
		return attach_uprobes(skel);
	/* No block may come before it. */
	skel->links.dwunw_on_new_image = bpf_program__attach(skel->progs.dwunw_on_new_image);
	if (!skel->links.dwunw_on_new_image)
		return -errno;
	return dwunw_probes__attach(dwunw_probes, env.object, env.symbols_prefix, env.pid, dwunw_options.probes_at_entry);
}

/* Once, when the process is the program that is watched. */
static void dwunw_check_allocators(void)
{
	static bool checked;

	if (!checked && !env.kernel_trace)
		dwunw_allocators__check(env.pid, env.object, !dwunw_object_given && !env.symbols_prefix[0]);
	checked = true;
}

/* A report has begun since the run was to end. One that was under way then, or a command that ended before memleak came
   to wait for it, leaves blocks that nobody has seen. */
static bool dwunw_last_report;

static void dwunw_wait(void)
{
	if (dwunw_output__flush())
		exiting = 1;
	if (dwunw)
		dwunw_stacks__wait(dwunw, &dwunw_target, env.interval, &exiting);
	else /* a signal that comes just before a wait does not end it */
		for (int i = 0; i < env.interval && !exiting && !dwunw_target__has_ended(&dwunw_target); i++)
			dwunw_target__wait(&dwunw_target, 1000);
	/* what follows is the last report */
	if (dwunw_target__has_ended(&dwunw_target))
		exiting = 1;
	dwunw_last_report = exiting;
}
/* dwunw-added: end */

int main(int argc, char *argv[])
{
	static const struct argp argp = {
		.options = argp_options,
		.parser = argp_parse_arg,
		.doc = argp_args_doc,
		.children = dwunw_argp_children, /* dwunw-added: the switches of the DWARF path */
	};
	struct memleak_dwunw_bpf *skel = NULL;
	struct sigaction sig_action = { .sa_handler = sig_handler, .sa_flags = SA_RESTART }; // dwunw-added: a report is not torn while it is written; plain: struct sigaction sig_action = { .sa_handler = sig_handler };
	int ret;

	dwunw_output__begin(); /* dwunw-added: what cannot be written is said */
	env.page_size = sysconf(_SC_PAGE_SIZE);
	ret = argp_parse(&argp, argc, argv, 0, NULL, NULL);
	if (ret) {
		fprintf(stderr, "failed to parse args\n");
		goto cleanup;
	}

	if (sigaction(SIGINT, &sig_action, NULL) || sigaction(SIGCHLD, &sig_action, NULL)) {
		perror("failed to set up signal handling");
		ret = -errno;
		goto cleanup;
	}

	if (env.min_size > env.max_size) {
		fprintf(stderr, "min size (-z) can't be greater than max_size (-Z)\n");
		return 1;
	}

	/* dwunw-added: begin what can be said before anything is done */
	if (dwunw_object_given && strlen(dwunw_object_given) >= sizeof(env.object))
		fprintf(stderr, "WARNING: -O is cut to its first %zu characters: %s\n", sizeof(env.object) - 1, env.object);
	if (env.pid > 0 && !env.command[0]) {
		dwunw_target__open(&dwunw_target, env.pid);
		if (!dwunw_target.pid || dwunw_target__has_ended(&dwunw_target)) {
			fprintf(stderr, "process %d: %s\n", env.pid, strerror(ESRCH));
			dwunw_target__close(&dwunw_target);
			return -ESRCH;
		}
	}
	/* dwunw-added: end */
	if (!env.object[0]) {
		printf("using default object: %s\n", default_object);
		strncpy(env.object, default_object, sizeof(env.object) - 1);
	}
	printf("using page size: %ld\n", env.page_size);

	env.kernel_trace = env.pid < 0 && !env.command[0];
	printf("tracing kernel: %s\n", env.kernel_trace ? "true" : "false");

	if (env.command[0]) {
		if (env.pid >= 0) {
			fprintf(stderr, "cannot specify both command and pid\n");
			ret = 1;
			goto cleanup;
		}
		ret = event_init(&child_exec_event_fd);
		if (ret) {
			fprintf(stderr, "failed to init child event\n");
			goto cleanup;
		}
		child_pid = fork_sync_exec(env.command, child_exec_event_fd);
		if (child_pid < 0) {
			perror("failed to spawn child process");
			ret = -errno;
			goto cleanup;
		}
		env.pid = child_pid;
	}
	/* dwunw-added: begin what ends a run, besides what always did */
	dwunw_catch_sigterm();
	if (child_pid > 0)
		dwunw_target__open(&dwunw_target, env.pid);
	/* dwunw-added: end */

	stack = calloc((size_t)env.perf_max_stack_depth + 1, sizeof(*stack));
	if (!stack) {
		fprintf(stderr, "failed to allocate stack array\n");
		ret = -ENOMEM;
		goto cleanup;
	}
	allocs = calloc(ALLOCS_ENTRIES, sizeof(*allocs));
	alloc_index = calloc(ALLOC_INDEX_ENTRIES, sizeof(*alloc_index));
	if (!allocs || !alloc_index) {
		fprintf(stderr, "failed to allocate array\n");
		ret = -ENOMEM;
		goto cleanup;
	}

	libbpf_set_print(libbpf_print_fn);
dwunw_open: /* dwunw-added: once more where the kernel's walk does not load */
	skel = memleak_dwunw_bpf__open();
	if (!skel) {
		fprintf(stderr, "failed to open bpf object\n");
		ret = 1;
		goto cleanup;
	}

	skel->rodata->min_size = env.min_size;
	skel->rodata->max_size = env.max_size;
	skel->rodata->page_size = (size_t)env.page_size;
	skel->rodata->sample_rate = env.sample_rate;
	skel->rodata->trace_all = env.trace_all;
	skel->rodata->stack_flags = env.kernel_trace ? 0 : BPF_F_USER_STACK;
	skel->rodata->wa_missing_free = env.wa_missing_free;
	bpf_map__set_value_size(skel->maps.stack_traces, (uint32_t)env.perf_max_stack_depth * sizeof(*stack));
	bpf_map__set_max_entries(skel->maps.stack_traces, (uint32_t)env.stack_map_max_entries);
	/* dwunw-added: begin mode, sizes of maps and the choice of programs are fixed before loading */
	ret = dwunw_prepare(skel);
	if (ret)
		goto cleanup;
	/* dwunw-added: end */

	if (env.kernel_trace) {
		if (!has_kernel_node_tracepoints())
			disable_kernel_node_tracepoints(skel);
		if (!env.percpu)
			disable_kernel_percpu_tracepoints(skel);
	} else {
		disable_kernel_tracepoints(skel);
	}

	ret = memleak_dwunw_bpf__load(skel);
	/* dwunw-added: begin an older kernel may not take the walk, or nothing of dwunw's */
	if (ret && ret != -EPERM && !dwunw_stacks__lack_admin() && dwunw_options.mode != DWUNW_MODE_OFF) {
		if (!dwunw_options.user_walk) {
			fprintf(stderr, "stacks can't be walked in this kernel; going on with --dwunw-walk=user\n");
			dwunw_options.user_walk = true;
		} else if (dwunw_give_up("its programs do not load in this kernel", ret)) {
			goto cleanup;
		}
		dwunw_cleanup();
		memleak_dwunw_bpf__destroy(skel);
		goto dwunw_open;
	}
	/* dwunw-added: end */
	if (ret) {
		fprintf(stderr, "failed to load bpf object\n");
		/* dwunw-added: begin what libbpf does not say */
		if (dwunw_stacks__lack_admin())
			fprintf(stderr, "to load it needs CAP_SYS_ADMIN in this kernel\n");
		/* dwunw-added: end */
		goto cleanup;
	}
	/* dwunw-added: begin the process is known before its first stack is taken */
	ret = dwunw_start();
	if (ret)
		goto cleanup;
	/* dwunw-added: end */

	if (!env.kernel_trace) {
		ret = attach_probes(skel); // dwunw-added: in one way or the other; plain: ret = attach_uprobes(skel);
		if (ret) {
			fprintf(stderr, "failed to attach uprobes\n");
			/* dwunw-added: begin libbpf says no more than "permission denied" */
			if (ret == -EACCES || ret == -EPERM)
				fprintf(stderr, "a perf event for a uprobe needs CAP_SYS_ADMIN\n");
			/* dwunw-added: end */
			goto cleanup;
		}
	}
	ret = memleak_dwunw_bpf__attach(skel);
	if (ret) {
		fprintf(stderr, "failed to attach bpf program(s)\n");
		goto cleanup;
	}

	/* dwunw-added: begin a command is not there yet */
	if (child_pid < 0)
		dwunw_check_allocators();
	/* dwunw-added: end */
	if (child_pid > 0) {
		ret = event_notify(child_exec_event_fd, 1);
		if (ret) {
			fprintf(stderr, "failed to notify child to perform exec\n");
			goto cleanup;
		}
	}

	if (env.kernel_trace) {
		ksyms = ksyms__load();
		if (!ksyms) {
			fprintf(stderr, "Failed to load ksyms\n");
			ret = -ENOMEM;
			goto cleanup;
		}
		print_stack_frames_func = print_stack_frames_by_ksyms;
	} else {
		syms_cache = syms_cache__new();
		if (!syms_cache) {
			fprintf(stderr, "Failed to create syms_cache\n");
			ret = -ENOMEM;
			goto cleanup;
		}
		print_stack_frames_func = print_stack_frames_by_syms_cache;
	}

	printf("Tracing outstanding memory allocs...  Hit Ctrl-C to end\n");

	while ((!exiting || !dwunw_last_report) && env.nr_intervals) { // dwunw-added: the last report is of the end; plain: while (!exiting && env.nr_intervals) {
		env.nr_intervals--;
		dwunw_wait(); // dwunw-added: records are taken in meanwhile; plain: sleep((unsigned int)env.interval);

		/* dwunw-added: begin a block that is read below has its record taken in already */
		dwunw_check_allocators();
		if (dwunw)
			dwunw_stacks__begin_report(dwunw, skel->bss->dwunw_image, (uint64_t)env.min_age_ns);
		/* dwunw-added: end */
		if (env.combined_only && !skel->rodata->dwunw_mode) // dwunw-added: the kernel adds up nothing else than its own stack ids; plain: if (env.combined_only)
			ret = print_outstanding_combined_allocs(bpf_map__fd(skel->maps.combined_allocs),
								bpf_map__fd(skel->maps.stack_traces));
		else
			ret = print_outstanding_allocs(bpf_map__fd(skel->maps.allocs),
						       bpf_map__fd(skel->maps.stack_traces));
		/* dwunw-added: begin every report says what is missing from it */
		if (dwunw)
			dwunw_stacks__end_report(dwunw, skel->bss->dwunw_blocks_lost);
		else if (dwunw_off_because)
			printf("dwunw: off, stacks are by frame pointers: %s\n", dwunw_off_because);
		if (!ret)
			ret = dwunw_output__flush();
		/* dwunw-added: end */
		if (ret)
			goto cleanup;
	}

	/* dwunw-added: begin what else would have been reported is no more */
	if (dwunw_target__has_ended(&dwunw_target))
		printf("process %d has ended\n", env.pid);
	/* dwunw-added: end */

cleanup:
	/* by now the command has ended, or is ended, even where it is still waiting for its go */
	if (child_pid > 0 && !child_exited) {
		if (kill(child_pid, SIGTERM))
			perror("failed to signal child process");
		printf("signaled child process\n");
	}
	dwunw_cleanup();		    /* dwunw-added: before the maps go */
	dwunw_target__close(&dwunw_target); /* dwunw-added: it has been looked at for the last time */
	if (skel)
		memleak_dwunw_bpf__destroy(skel);
	syms_cache__free(syms_cache);
	ksyms__free(ksyms);
	free(alloc_index);
	free(allocs);
	free(stack);
	if (child_pid > 0) {
		if (waitpid(child_pid, NULL, 0) < 0)
			perror("failed to reap child process");
		else
			printf("reaped child process\n");
	}
	printf("done\n");
	return ret;
}
