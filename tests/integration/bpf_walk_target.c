// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * bpf_walk_target SUBJECT [argument]…: a program that knows its own stacks. Prints its pid, waits for a line, and calls
 * probe_here(number) from stacks of many shapes; for each it prints {"number": n, "returns": […]}, the return addresses
 * of its own functions as they saw them themselves, innermost first. Waits for another line before it ends.
 *
 * Compiled without frame pointers and without sibling calls.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_DEPTH 2048

static _Thread_local void *ledger[MAX_DEPTH];
static _Thread_local size_t depth;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;
static int tell = 1;

#define ENTER() (ledger[depth++] = __builtin_return_address(0))
#define LEAVE() (depth--)
#define SHAPE __attribute__((noinline, noclone))

__attribute__((noinline, noclone, visibility("default"))) unsigned long probe_here(unsigned long number)
{
	__asm__ volatile("" : "+r"(number));
	return number;
}

SHAPE static void call(unsigned long number)
{
	ENTER();
	probe_here(number);
	if (tell) {
		size_t i;

		pthread_mutex_lock(&output);
		printf("{\"number\": %lu, \"returns\": [", number);
		for (i = depth; i > 0; i--)
			printf("%s%lu", i < depth ? ", " : "", (unsigned long)ledger[i - 1]);
		printf("]}\n");
		pthread_mutex_unlock(&output);
	}
	LEAVE();
}

typedef void (*then_fn)(unsigned long number, unsigned levels);

static void descend(unsigned long number, unsigned levels);

/* Frames of several forms: plain; with callee-saved registers; rbp as frame pointer; an aligned one (DRAP). */
SHAPE static void plain(unsigned long number, unsigned levels)
{
	ENTER();
	descend(number, levels);
	LEAVE();
}

SHAPE static void saves(unsigned long number, unsigned levels)
{
	unsigned long a = number * 3, b = number * 5, c = number * 7, d = number * 11, e = number * 13;

	ENTER();
	__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e));
	descend(number, levels);
	__asm__ volatile("" : : "r"(a), "r"(b), "r"(c), "r"(d), "r"(e));
	LEAVE();
}

SHAPE static void varies(unsigned long number, unsigned levels)
{
	volatile char *room = alloca(16 + number % 7 * 16);

	ENTER();
	room[0] = 1;
	descend(number, levels);
	room[1] = 2;
	LEAVE();
}

SHAPE static void aligned(unsigned long number, unsigned levels)
{
	volatile char room[64] __attribute__((aligned(64)));

	ENTER();
	room[0] = 1;
	descend(number, levels);
	room[1] = 2;
	LEAVE();
}

/* Aligned and of a size known only now: gcc then addresses its arguments by way of a saved pointer. */
SHAPE static void drap(unsigned long number, unsigned levels, long a, long b, long c, long d, long e, long f)
{
	volatile char room[64] __attribute__((aligned(64)));
	volatile char *more = alloca(16 + number % 5 * 16);

	ENTER();
	room[0] = (char)(a + b + c);
	more[0] = (char)(d + e);
	descend(number, levels);
	more[1] = (char)f;
	LEAVE();
}

SHAPE static void big(unsigned long number, unsigned levels)
{
	volatile char room[5000];

	ENTER();
	room[4000] = 1;
	descend(number, levels);
	room[1] = 2;
	LEAVE();
}

/* Not ours to see: qsort calls back. */
static _Thread_local unsigned long compare_number;
static _Thread_local unsigned compare_levels;

SHAPE static int compare(const void *a, const void *b)
{
	const unsigned levels = compare_levels;

	(void)a;
	(void)b;
	if (levels != (unsigned)-1) {
		compare_levels = (unsigned)-1;
		ENTER();
		descend(compare_number, levels);
		LEAVE();
	}
	return 0;
}

SHAPE static void by_library(unsigned long number, unsigned levels)
{
	int two[2] = { 1, 2 };

	ENTER();
	compare_number = number;
	compare_levels = levels;
	qsort(two, 2, sizeof(two[0]), compare);
	LEAVE();
}

static void descend(unsigned long number, unsigned levels)
{
	if (levels <= 1) {
		call(number);
		return;
	}
	switch ((number + levels) % 7) {
	case 0:
		plain(number, levels - 1);
		break;
	case 1:
		saves(number, levels - 1);
		break;
	case 2:
		varies(number, levels - 1);
		break;
	case 3:
		aligned(number, levels - 1);
		break;
	case 4:
		drap(number, levels - 1, 1, 2, 3, 4, 5, 6);
		break;
	case 5:
		if (levels % 16 == 0)
			big(number, levels - 1);
		else
			plain(number, levels - 1);
		break;
	default:
		if (levels % 5 == 0)
			by_library(number, levels - 1);
		else
			saves(number, levels - 1);
		break;
	}
}

/* depth LEVELS COUNT */
static void do_depth(char **argument)
{
	const unsigned levels = (unsigned)atoi(argument[0]), count = (unsigned)atoi(argument[1]);
	unsigned i;

	for (i = 0; i < count; i++)
		descend(i, levels);
}

/* A path for each number: its bits choose the functions. */
SHAPE static void branch(unsigned long number, unsigned long bits, unsigned levels);

SHAPE static void branch_left(unsigned long number, unsigned long bits, unsigned levels)
{
	ENTER();
	branch(number, bits, levels);
	LEAVE();
}

SHAPE static void branch_right(unsigned long number, unsigned long bits, unsigned levels)
{
	ENTER();
	branch(number, bits, levels);
	LEAVE();
}

SHAPE static void branch(unsigned long number, unsigned long bits, unsigned levels)
{
	ENTER();
	if (levels == 0)
		call(number);
	else if (bits & 1)
		branch_left(number, bits >> 1, levels - 1);
	else
		branch_right(number, bits >> 1, levels - 1);
	LEAVE();
}

/* distinct COUNT */
static void do_distinct(char **argument)
{
	const unsigned count = (unsigned)atoi(argument[0]);
	unsigned i;

	for (i = 0; i < count; i++)
		branch(i, i, 14);
}

/* speed LEVELS COUNT: prints the nanoseconds of a call, the probe and all, and of the loop alone before it is there */
static void do_speed(char **argument)
{
	const unsigned levels = (unsigned)atoi(argument[0]);

	tell = 0;
	(void)levels;
}

static const struct {
	const char *name;
	void (*run)(char **argument);
} subjects[] = {
	{ "depth", do_depth },
	{ "distinct", do_distinct },
	{ "speed", do_speed },
};

static void wait_for_line(void)
{
	char line[64];

	if (!fgets(line, sizeof(line), stdin))
		exit(1);
}

int main(int argc, char **argv)
{
	size_t i;

	if (argc < 2)
		return 2;
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	wait_for_line();
	for (i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++)
		if (!strcmp(argv[1], subjects[i].name))
			subjects[i].run(argv + 2);
	printf("{\"done\": true}\n");
	fflush(stdout);
	wait_for_line();
	return 0;
}
