// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: the switches of the DWARF path */
#include "dwunw_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dwunw/bpf/dwunw_types.h>

#define MIB (1024 * 1024)

struct dwunw_options dwunw_options = {
	.mode = DWUNW_MODE_FALLBACK,
	.stack_bytes = DWUNW_BPF_SLICE_MAX,
	.ring_bytes = 8 * MIB,
	.kept_bytes = 256 * MIB,
	.table_bytes = 8 * MIB,
	.path_limit = 256,
	.blocks = ALLOCS_MAX_ENTRIES,
};

enum {
	OPT_MODE = 1,
	OPT_WALK,
	OPT_PLACEMENT,
	OPT_RETURNS,
	OPT_STACK_SIZE,
	OPT_RING_SIZE,
	OPT_KEPT_SIZE,
	OPT_TABLE_SIZE,
	OPT_PATH_LIMIT,
	OPT_BLOCKS,
};

static const struct argp_option options[] = {
	{ "dwunw-mode", OPT_MODE, "off|fallback|force", 0,
	  "stacks only by frame pointers (off), by DWARF and, if such a stack was lost, by frame pointers (fallback, the "
	  "default), or only by DWARF (force)",
	  0 },
	{ "dwunw-walk", OPT_WALK, "kernel|user", 0,
	  "where stacks are walked: in the BPF program (kernel, the default if it loads), or in this program, from "
	  "registers and stack bytes (user)",
	  0 },
	{ "probe-placement", OPT_PLACEMENT, "auto|entry", 0,
	  "probes on each function's first cheap instruction (auto, the default except with --dwunw-mode=off), or on its "
	  "first instruction (entry)",
	  0 },
	{ "dwunw-returns", OPT_RETURNS, "auto|probe|instruction", 0,
	  "how an allocator's return is seen: by return probes (probe), which can end the program if the kernel has no "
	  "uprobe sessions, by probes on the return instructions (instruction), or by return probes in a session and "
	  "otherwise by return instructions (auto, the default)",
	  0 },
	{ "dwunw-stack-size", OPT_STACK_SIZE, "BYTES", 0,
	  "the most stack bytes to send for a walk in user space, 1024 to 65536 (65536)", 0 },
	{ "dwunw-ring-size", OPT_RING_SIZE, "KIB", 0, "size of the ring buffer, a power of two from 256 to 1048576 (8192)", 0 },
	{ "dwunw-kept-size", OPT_KEPT_SIZE, "MIB", 0, "memory for distinct stacks, 1 to 4095 (256)", 0 },
	{ "dwunw-table-size", OPT_TABLE_SIZE, "MIB", 0, "memory in the kernel for unwind tables, 1 to 2047 (8)", 0 },
	{ "dwunw-path-limit", OPT_PATH_LIMIT, "N", 0,
	  "new stacks a second for user space that begin with the same frames, 1 to 1000000 (256)", 0 },
	{ "dwunw-blocks", OPT_BLOCKS, "N", 0, "outstanding blocks kept at a time, 65536 to 100000000 (1000000)", 0 },
	{},
};

static int parse_choice(const char *option, const char *arg, const char *const names[], const char *all,
			struct argp_state *state)
{
	for (int i = 0; names[i]; i++)
		if (!strcmp(arg, names[i]))
			return i;
	fprintf(stderr, "invalid --%s: %s (%s)\n", option, arg, all);
	argp_usage(state);
	return 0;
}

static uint32_t parse_number(const char *option, const char *arg, long min, long max, bool power, struct argp_state *state)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(arg, &end, 10);
	if (errno || end == arg || *end || value < min || value > max || (power && (value & (value - 1)))) {
		fprintf(stderr, "invalid --%s: %s (%s%ld to %ld)\n", option, arg, power ? "a power of two, " : "", min, max);
		argp_usage(state);
	}
	return (uint32_t)value;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	static const char *const modes[] = { "off", "fallback", "force", NULL };
	static const char *const walks[] = { "kernel", "user", NULL };
	static const char *const placements[] = { "auto", "entry", NULL };
	static const char *const returns[] = { "auto", "probe", "instruction", NULL };
	struct dwunw_options *chosen = &dwunw_options;

	switch (key) {
	case OPT_MODE:
		chosen->mode = parse_choice("dwunw-mode", arg, modes, "off, fallback or force", state);
		break;
	case OPT_WALK:
		chosen->user_walk = parse_choice("dwunw-walk", arg, walks, "kernel or user", state);
		break;
	case OPT_PLACEMENT:
		chosen->probes_at_entry = parse_choice("probe-placement", arg, placements, "auto or entry", state);
		chosen->probes_as_asked = true;
		break;
	case OPT_RETURNS:
		chosen->returns = (uint32_t)parse_choice("dwunw-returns", arg, returns, "auto, probe or instruction", state);
		break;
	case OPT_STACK_SIZE:
		chosen->stack_bytes = parse_number("dwunw-stack-size", arg, 1024, DWUNW_BPF_SLICE_MAX, false, state);
		break;
	case OPT_RING_SIZE:
		chosen->ring_bytes = parse_number("dwunw-ring-size", arg, 256, 1048576, true, state) * 1024;
		break;
	case OPT_KEPT_SIZE:
		chosen->kept_bytes = parse_number("dwunw-kept-size", arg, 1, 4095, false, state) * MIB;
		break;
	case OPT_TABLE_SIZE:
		chosen->table_bytes = parse_number("dwunw-table-size", arg, 1, 2047, false, state) * MIB;
		break;
	case OPT_PATH_LIMIT:
		chosen->path_limit = parse_number("dwunw-path-limit", arg, 1, 1000000, false, state);
		break;
	case OPT_BLOCKS:
		chosen->blocks = parse_number("dwunw-blocks", arg, 65536, 100000000, false, state);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp switches = { .options = options, .parser = parse };

const struct argp_child dwunw_argp_children[] = { { &switches, 0, "Stacks by DWARF:", 1 }, {} };
/* dwunw-added: end */
