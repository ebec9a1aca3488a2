// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* Frames of many shapes, and the call that they end in. */
#include "bpf_walk_target.h"

#include <alloca.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_DEPTH 2048

static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;
bool tell = true;
const char *plugin_name = "";

/* The first instruction is a nop: a probe on one that the kernel need not step over. */
__attribute__((noinline, noclone, visibility("default"), patchable_function_entry(1))) unsigned long
probe_here(unsigned long number) {
    __asm__ volatile("" : "+r"(number));
    return number;
}

SHAPE void call(unsigned long number) {
    void *returns[MAX_DEPTH];
    int count, i;

    probe_here(number);
    if (!tell)
        return;
    count = backtrace(returns, MAX_DEPTH);
    pthread_mutex_lock(&output);
    printf("{\"number\": %lu, \"plugin\": \"%s\", \"returns\": [", number, plugin_name);
    for (i = 1; i < count; i++)
        printf("%s%lu", i > 1 ? ", " : "", (unsigned long)returns[i]);
    printf("]}\n");
    pthread_mutex_unlock(&output);
}

/* Frames of several forms: plain; with callee-saved registers; rbp as frame pointer; an aligned one (DRAP). */
SHAPE static void plain(unsigned long number, unsigned levels) {
    descend(number, levels);
    STAY();
}

SHAPE static void saves(unsigned long number, unsigned levels) {
    unsigned long a = number * 3, b = number * 5, c = number * 7, d = number * 11, e = number * 13;

    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e));
    descend(number, levels);
    __asm__ volatile("" : : "r"(a), "r"(b), "r"(c), "r"(d), "r"(e));
    STAY();
}

SHAPE static void varies(unsigned long number, unsigned levels) {
    volatile char *room = alloca(16 + number % 7 * 16);

    room[0] = 1;
    descend(number, levels);
    room[1] = 2;
    STAY();
}

SHAPE static void aligned(unsigned long number, unsigned levels) {
    volatile char room[64] __attribute__((aligned(64)));

    room[0] = 1;
    descend(number, levels);
    room[1] = 2;
    STAY();
}

/* Aligned and of a size known only now: gcc then addresses its arguments by way of a saved pointer. */
SHAPE static void drap(unsigned long number, unsigned levels, long a, long b, long c, long d, long e, long f) {
    volatile char room[64] __attribute__((aligned(64)));
    volatile char *more = alloca(16 + number % 5 * 16);

    room[0] = (char)(a + b + c);
    more[0] = (char)(d + e);
    descend(number, levels);
    more[1] = (char)f;
    STAY();
}

SHAPE static void big(unsigned long number, unsigned levels) {
    volatile char room[5000];

    room[4000] = 1;
    descend(number, levels);
    room[1] = 2;
    STAY();
}

/* Not ours to see: qsort calls back. */
static _Thread_local unsigned long compare_number;
static _Thread_local unsigned compare_levels;

SHAPE static int compare(const void *a, const void *b) {
    const unsigned levels = compare_levels;

    (void)a;
    (void)b;
    if (levels != (unsigned)-1) {
        compare_levels = (unsigned)-1;
        descend(compare_number, levels);
    }
    return 0;
}

SHAPE static void by_library(unsigned long number, unsigned levels) {
    int two[2] = {1, 2};

    compare_number = number;
    compare_levels = levels;
    qsort(two, 2, sizeof(two[0]), compare);
    STAY();
}

void descend(unsigned long number, unsigned levels) {
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
