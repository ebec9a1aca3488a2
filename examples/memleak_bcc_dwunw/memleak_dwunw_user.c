// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * memleak: outstanding memory allocations, by stack.
 *
 * Written anew after the behaviour of memleak in bcc's libbpf-tools, in its structure, so that a reader who knows that
 * one finds his way.
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

#include <dwunw/bpf_attach.h>	   /* dwunw-added: how returns are seen */
#include "dwunw_probes.h"	   /* dwunw-added: probes where they cost least */
#include "dwunw_stacks.h"	   /* dwunw-added: stack ids into stacks */
#include <dwunw/bpf/dwunw_types.h> /* dwunw-added: flags of the walk */
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
	enum dwunw_mode dwunw_mode; /* dwunw-added: off, fallback or force */
	bool dwunw_user_walk;	    /* dwunw-added: stacks are walked in user space */
	bool dwunw_probes;	    /* dwunw-added: probes by dwunw_probes.h */
	bool probes_at_entry;	    /* dwunw-added: and at the functions' entries */
	bool probes_as_asked;	    /* dwunw-added: --probe-placement was given */
	int dwunw_returns;	    /* dwunw-added: enum dwunw_attach_returns */
	long dwunw_stack_bytes;	    /* dwunw-added: how much of a stack is sent */
	long dwunw_ring_kib;	    /* dwunw-added: room for records on their way */
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
	.dwunw_mode = DWUNW_MODE_FALLBACK, /* dwunw-added: on unless asked otherwise */
	.dwunw_stack_bytes = 65536,	   /* dwunw-added: enough for what was measured, see README.md */
	.dwunw_ring_kib = 8192,		   /* dwunw-added: room for a burst of new stacks */
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
#define ALLOC_INDEX_ENTRIES (2 * ALLOCS_MAX_ENTRIES)

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
	OPT_DWUNW_MODE,	      /* dwunw-added: --dwunw-mode */
	OPT_DWUNW_WALK,	      /* dwunw-added: --dwunw-walk */
	OPT_PROBE_PLACEMENT,  /* dwunw-added: --probe-placement */
	OPT_DWUNW_RETURNS,    /* dwunw-added: --dwunw-returns */
	OPT_DWUNW_STACK_SIZE, /* dwunw-added: --dwunw-stack-size */
	OPT_DWUNW_RING_SIZE,  /* dwunw-added: --dwunw-ring-size */
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
	/* dwunw-added: begin the switches of the DWARF path */
	{ "dwunw-mode", OPT_DWUNW_MODE, "off|fallback|force", 0,
	  "stacks by frame pointers alone (off), by DWARF and by frame pointers where those go further (fallback, the "
	  "default), or by DWARF alone (force)",
	  0 },
	{ "dwunw-walk", OPT_DWUNW_WALK, "kernel|user", 0,
	  "where stacks are walked: by the BPF program (kernel, the default where it loads), or from registers and stack "
	  "bytes sent to this program (user)",
	  0 },
	{ "probe-placement", OPT_PROBE_PLACEMENT, "auto|entry", 0,
	  "probes on the first instruction that costs little (auto, the default but with --dwunw-mode=off), or on each "
	  "function's first (entry)",
	  0 },
	{ "dwunw-returns", OPT_DWUNW_RETURNS, "auto|probe|instruction", 0,
	  "how an allocator's return is seen: by return probes (probe), which can end the program where the kernel has no "
	  "uprobe sessions, by probes on the return instructions (instruction), or by the first in a session, else by the "
	  "second (auto, the default)",
	  0 },
	{ "dwunw-stack-size", OPT_DWUNW_STACK_SIZE, "BYTES", 0,
	  "most bytes of a stack sent for a walk in user space, 1024 to 65536 (65536)", 0 },
	{ "dwunw-ring-size", OPT_DWUNW_RING_SIZE, "KIB", 0,
	  "size of the ring buffer, a power of two from 256 to 1048576 (8192)", 0 },
	/* dwunw-added: end */
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

/* dwunw-added: begin the switches' values */
static int parse_dwunw_choice(const char *option, const char *arg, const char *const names[], const char *all,
			      struct argp_state *state)
{
	for (int i = 0; names[i]; i++)
		if (!strcmp(arg, names[i]))
			return i;
	fprintf(stderr, "invalid --%s: %s (%s)\n", option, arg, all);
	argp_usage(state);
	return 0;
}

static long parse_dwunw_size(const char *option, const char *arg, long min, long max, bool power, struct argp_state *state)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(arg, &end, 10);
	if (errno || end == arg || *end || value < min || value > max || (power && (value & (value - 1)))) {
		fprintf(stderr, "invalid --%s: %s (%s%ld to %ld)\n", option, arg, power ? "a power of two, " : "", min, max);
		argp_usage(state);
	}
	return value;
}
/* dwunw-added: end */

static error_t argp_parse_arg(int key, char *arg, struct argp_state *state)
{
	/* dwunw-added: begin the switches' values */
	static const char *const modes[] = { "off", "fallback", "force", NULL };
	static const char *const walks[] = { "kernel", "user", NULL };
	static const char *const placements[] = { "auto", "entry", NULL };
	static const char *const returns[] = { "auto", "probe", "instruction", NULL };
	/* dwunw-added: end */
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
	/* dwunw-added: begin the switches of the DWARF path */
	case OPT_DWUNW_MODE:
		env.dwunw_mode = parse_dwunw_choice("dwunw-mode", arg, modes, "off, fallback or force", state);
		break;
	case OPT_DWUNW_WALK:
		env.dwunw_user_walk = parse_dwunw_choice("dwunw-walk", arg, walks, "kernel or user", state);
		break;
	case OPT_PROBE_PLACEMENT:
		env.probes_at_entry = parse_dwunw_choice("probe-placement", arg, placements, "auto or entry", state);
		env.probes_as_asked = true;
		break;
	case OPT_DWUNW_RETURNS:
		env.dwunw_returns = parse_dwunw_choice("dwunw-returns", arg, returns, "auto, probe or instruction", state);
		break;
	case OPT_DWUNW_STACK_SIZE:
		env.dwunw_stack_bytes = parse_dwunw_size("dwunw-stack-size", arg, 1024,
							 DWUNW_BPF_SLICE_MAX, false, state);
		break;
	case OPT_DWUNW_RING_SIZE:
		env.dwunw_ring_kib = parse_dwunw_size("dwunw-ring-size", arg, 256, 1048576, true, state);
		break;
	/* dwunw-added: end */
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

/* The child waits for the probes to be in place before it becomes the command. */
static pid_t fork_sync_exec(const char *command, int fd)
{
	pid_t pid;

	fflush(stdout); /* what is printed by now is printed once */
	pid = fork();
	switch (pid) {
	case -1:
		perror("failed to create child process");
		break;
	case 0:
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

		/* dwunw-added: begin stacks that dwunw walked are not in the kernel's map */
		if (dwunw && dwunw_stacks__print(dwunw, alloc->stack_id))
			continue;
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
	if (*nr_allocs == ALLOCS_MAX_ENTRIES)
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
 * Reads the map in batches of whole buckets: asking for one key after another starts from the beginning whenever the
 * target has just freed the last one, counts blocks twice, and against a busy target never ends.
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

			/* dwunw-added: begin a block may be younger than what was taken in */
			if (dwunw)
				stack_id = dwunw_stacks__stack_of(dwunw, &infos[i], stack_traces_fd, stack,
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
static int dwunw_give_up(const char *why, int err)
{
	if (env.dwunw_mode == DWUNW_MODE_FORCE) {
		fprintf(stderr, "DWARF unwinding can't start: %s\n", why);
		return err;
	}
	fprintf(stderr, "DWARF unwinding can't start: %s; going on with frame-pointer stacks (--dwunw-mode=off)\n", why);
	env.dwunw_mode = DWUNW_MODE_OFF;
	return 0;
}

/* What is fixed before the load. */
static int dwunw_prepare(struct memleak_dwunw_bpf *skel)
{
	struct dwunw_stacks_options options = {
		.stack_bytes = (uint32_t)env.dwunw_stack_bytes,
		.ring_bytes = (uint32_t)env.dwunw_ring_kib * 1024,
	};
	struct rlimit files;
	const char *why;
	int err;

	if (env.kernel_trace && env.dwunw_mode == DWUNW_MODE_FORCE)
		return dwunw_give_up("it is for a process's allocations (-p or -c), the kernel's stacks need none", -EINVAL);
	if (env.kernel_trace)
		env.dwunw_mode = DWUNW_MODE_OFF;
	if (env.dwunw_mode != DWUNW_MODE_OFF && !getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	options.mode = env.dwunw_mode;
	err = dwunw_stacks__open(&dwunw_opened, skel->obj, &options, &why);
	/* Who may not do that may not load either, which says so. */
	if (err && err != -EPERM && env.dwunw_mode != DWUNW_MODE_OFF) {
		err = dwunw_give_up(why, err);
		if (err)
			return err;
	}
	skel->rodata->dwunw_mode = (int)env.dwunw_mode;
	skel->rodata->dwunw_walk_flags = env.dwunw_user_walk ? DWUNW_USER_ONLY : 0;
	/* Without DWARF, probes are bcc's unless asked for otherwise. */
	env.dwunw_probes = !env.kernel_trace && (env.dwunw_mode != DWUNW_MODE_OFF ||
						 (env.probes_as_asked && !env.probes_at_entry));
	/* What is not used need not take memory. */
	if (env.dwunw_probes) {
		bpf_map__set_max_entries(skel->maps.sizes, 1);
		bpf_map__set_max_entries(skel->maps.memptrs, 1);
	}
	if (env.dwunw_mode != DWUNW_MODE_OFF)
		bpf_map__set_max_entries(skel->maps.combined_allocs, 1);
	if (env.dwunw_mode == DWUNW_MODE_FORCE)
		bpf_map__set_max_entries(skel->maps.stack_traces, 1);
	err = dwunw_probes__prepare(&dwunw_probes, skel->obj, env.dwunw_probes, (unsigned int)env.dwunw_returns,
				    env.verbose);
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

	if (env.dwunw_mode == DWUNW_MODE_OFF)
		return 0;
	err = dwunw_stacks__start(dwunw_opened, env.pid, env.verbose, &why);
	if (err)
		return dwunw_give_up(why, err);
	dwunw = dwunw_opened;
	return 0;
}

static int attach_probes(struct memleak_dwunw_bpf *skel)
{
	if (!env.dwunw_probes)
		return attach_uprobes(skel);
	return dwunw_probes__attach(dwunw_probes, env.object, env.symbols_prefix, env.pid, env.probes_at_entry);
}

static void dwunw_wait(void)
{
	fflush(stdout);
	if (dwunw)
		dwunw_stacks__wait(dwunw, env.interval, &exiting);
	else /* a signal that comes just before a sleep does not end it */
		for (int i = 0; i < env.interval && !exiting; i++)
			sleep(1);
}
/* dwunw-added: end */

int main(int argc, char *argv[])
{
	static const struct argp argp = {
		.options = argp_options,
		.parser = argp_parse_arg,
		.doc = argp_args_doc,
	};
	struct memleak_dwunw_bpf *skel = NULL;
	struct sigaction sig_action = { .sa_handler = sig_handler };
	int ret;

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

	stack = calloc((size_t)env.perf_max_stack_depth + 1, sizeof(*stack));
	if (!stack) {
		fprintf(stderr, "failed to allocate stack array\n");
		ret = -ENOMEM;
		goto cleanup;
	}
	allocs = calloc(ALLOCS_MAX_ENTRIES, sizeof(*allocs));
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
	if (ret && ret != -EPERM && env.dwunw_mode != DWUNW_MODE_OFF) {
		if (!env.dwunw_user_walk) {
			fprintf(stderr, "stacks can't be walked in this kernel; going on with --dwunw-walk=user\n");
			env.dwunw_user_walk = true;
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
			goto cleanup;
		}
	}
	ret = memleak_dwunw_bpf__attach(skel);
	if (ret) {
		fprintf(stderr, "failed to attach bpf program(s)\n");
		goto cleanup;
	}

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

	while (!exiting && env.nr_intervals) {
		env.nr_intervals--;
		dwunw_wait(); // dwunw-added: records are taken in meanwhile; plain: sleep((unsigned int)env.interval);

		/* dwunw-added: begin a block that is read below has its record taken in already */
		if (dwunw)
			dwunw_stacks__begin_report(dwunw);
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
		fflush(stdout);
		/* dwunw-added: end */
		if (ret)
			goto cleanup;
	}

cleanup:
	/* by now the command has ended, or is ended, even where it is still waiting for its go */
	if (child_pid > 0 && !child_exited) {
		if (kill(child_pid, SIGTERM))
			perror("failed to signal child process");
		printf("signaled child process\n");
	}
	dwunw_cleanup(); /* dwunw-added: before the maps go */
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
