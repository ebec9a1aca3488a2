// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: the kernel's frame-pointer stacks, as far as they are certain */
#include "dwunw_kernel_stacks.h"

#include <stdlib.h>

#include <bpf/bpf.h>
#include <dwunw/process.h>

struct dwunw_kernel_stack {
	int id;
	uint32_t count; /* number of frames; 0: must not be shown */
	struct dwunw_frame frames[];
};

static void forget_all(struct dwunw_kernel_stacks *stacks)
{
	for (size_t i = 0; i < stacks->capacity; i++)
		free(stacks->stacks[i]);
	free(stacks->stacks);
	stacks->stacks = NULL;
	stacks->count = stacks->capacity = 0;
}

bool dwunw_kernel_stacks__look(struct dwunw_kernel_stacks *stacks)
{
	uint64_t since_ns;

	/* After the process's end, the answers from its lifetime stay valid. */
	if (dwunw_bpf_unchanged_since(stacks->bpf, stacks->pid, &since_ns) != DWUNW_OK)
		return false;
	if (since_ns != stacks->since_ns)
		forget_all(stacks);
	stacks->since_ns = since_ns;
	return true;
}

void dwunw_kernel_stacks__free(struct dwunw_kernel_stacks *stacks)
{
	forget_all(stacks);
}

static size_t slot_of(struct dwunw_kernel_stack *const *table, size_t capacity, int id)
{
	size_t slot = ((uint32_t)id * 0x9e3779b97f4a7c15ull >> 32) & (capacity - 1);

	while (table[slot] && table[slot]->id != id)
		slot = (slot + 1) & (capacity - 1);
	return slot;
}

static bool make_room(struct dwunw_kernel_stacks *stacks)
{
	const size_t capacity = stacks->capacity ? stacks->capacity * 2 : 1024;
	struct dwunw_kernel_stack **grown;

	if (2 * (stacks->count + 1) <= stacks->capacity)
		return true;
	grown = calloc(capacity, sizeof(*grown));
	if (!grown)
		return false;
	for (size_t i = 0; i < stacks->capacity; i++)
		if (stacks->stacks[i])
			grown[slot_of(grown, capacity, stacks->stacks[i]->id)] = stacks->stacks[i];
	free(stacks->stacks);
	stacks->stacks = grown;
	stacks->capacity = capacity;
	return true;
}

/* Writes the frames of a stack in the map that may be shown to `frames`. Returns their number. */
static size_t check(struct dwunw_kernel_stacks *stacks, const uint64_t *ips, size_t depth, struct dwunw_frame *frames)
{
	struct dwunw_process *process = dwunw_bpf_process(stacks->bpf, stacks->pid);
	uint64_t since_ns;
	size_t certain;

	if (!process || dwunw_process_check_frame_chain(process, ips, depth, frames, &certain) != DWUNW_OK || certain < 2)
		return 0;
	/* The map is not a later one. */
	if (dwunw_bpf_unchanged_since(stacks->bpf, stacks->pid, &since_ns) != DWUNW_OK || since_ns != stacks->since_ns)
		return 0;
	return certain;
}

size_t dwunw_kernel_stacks__get(struct dwunw_kernel_stacks *stacks, int map_fd, int stack_id, uint64_t taken_ns,
				uint64_t *ips, size_t max_ips, const struct dwunw_frame **frames)
{
	struct dwunw_kernel_stack *stack, *smaller;
	size_t depth = 0, slot;

	if (stack_id < 0 || taken_ns < stacks->since_ns || taken_ns > stacks->until_ns || !make_room(stacks))
		return 0;
	slot = slot_of(stacks->stacks, stacks->capacity, stack_id);
	stack = stacks->stacks[slot];
	if (!stack) {
		if (bpf_map_lookup_elem(map_fd, &stack_id, ips))
			return 0;
		while (depth < max_ips && ips[depth])
			depth++;
		stack = malloc(sizeof(*stack) + depth * sizeof(stack->frames[0]));
		if (!stack)
			return 0;
		stack->id = stack_id;
		stack->count = depth ? (uint32_t)check(stacks, ips, depth, stack->frames) : 0;
		smaller = realloc(stack, sizeof(*stack) + stack->count * sizeof(stack->frames[0]));
		stack = smaller ? smaller : stack;
		stacks->stacks[slot] = stack;
		stacks->count++;
	}
	*frames = stack->frames;
	return stack->count;
}

size_t dwunw_kernel_stacks__known(const struct dwunw_kernel_stacks *stacks, int stack_id, const struct dwunw_frame **frames)
{
	const struct dwunw_kernel_stack *stack =
		stacks->capacity ? stacks->stacks[slot_of(stacks->stacks, stacks->capacity, stack_id)] : NULL;

	*frames = stack ? stack->frames : NULL;
	return stack ? stack->count : 0;
}
/* dwunw-added: end */
