// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * bpf_walk_target SUBJECT [argument]…: a program that records its own stacks. Prints its pid, waits for a line, and
 * calls probe_here(number) from stacks of many shapes. For each it prints {"number": n, "returns": […]}: the return
 * addresses that libgcc's unwinder finds, innermost first, from call()'s own on. Waits for another line before it ends.
 *
 * bpf_walk_target_frames.c has the shapes, bpf_walk_target_maps.c the subjects in which the map changes. Compiled
 * without frame pointers and without sibling calls.
 */
#define _GNU_SOURCE
#include "bpf_walk_target.h"

#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

/* depth LEVELS COUNT */
static void do_depth(char **argument) {
    const unsigned levels = (unsigned)atoi(argument[0]), count = (unsigned)atoi(argument[1]);
    unsigned i;

    for (i = 0; i < count; i++)
        descend(i, levels);
}

/* A path for each number: its bits choose the functions. */
SHAPE static void branch(unsigned long number, unsigned long bits, unsigned levels);

SHAPE static void branch_left(unsigned long number, unsigned long bits, unsigned levels) {
    branch(number, bits, levels);
    STAY();
}

SHAPE static void branch_right(unsigned long number, unsigned long bits, unsigned levels) {
    branch(number, bits, levels);
    STAY();
}

SHAPE static void branch(unsigned long number, unsigned long bits, unsigned levels) {
    if (levels == 0)
        call(number);
    else if (bits & 1)
        branch_left(number, bits >> 1, levels - 1);
    else
        branch_right(number, bits >> 1, levels - 1);
    STAY();
}

/* distinct COUNT */
static void do_distinct(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    unsigned i;

    for (i = 0; i < count; i++)
        branch(i, i, 14);
}

/* threads THREADS LEVELS COUNT */
struct worker {
    pthread_t thread;
    unsigned long first;
    unsigned levels, count;
};

static void *work(void *arg) {
    const struct worker *worker = arg;
    unsigned i;

    for (i = 0; i < worker->count; i++)
        descend(worker->first + i, worker->levels);
    return NULL;
}

static void do_threads(char **argument) {
    const unsigned threads = (unsigned)atoi(argument[0]);
    struct worker workers[64];
    unsigned i;

    for (i = 0; i < threads && i < 64; i++) {
        workers[i].first = i * 1000ul;
        workers[i].levels = (unsigned)atoi(argument[1]);
        workers[i].count = (unsigned)atoi(argument[2]);
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            exit(1);
    }
    for (i = 0; i < threads && i < 64; i++)
        pthread_join(workers[i].thread, NULL);
}

/* signals COUNT: in a handler, on a stack of its own every other time */
static volatile unsigned long signal_number;

static void on_signal(int signal) {
    (void)signal;
    descend(signal_number, 5);
}

SHAPE static void interrupted(void) {
    raise(SIGUSR1);
    STAY();
}

/* A fault: the pc in the signal frame is the instruction's own. */
static char *volatile nowhere;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    descend(signal_number, 4);
    /* Go on behind the two-byte load. */
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

SHAPE static void faults(void) {
    __asm__ volatile("movb (%0), %%al" : : "r"(nowhere) : "rax", "memory");
    STAY();
}

static void do_signals(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    const stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    struct sigaction action = {.sa_handler = on_signal};
    unsigned i;

    sigaltstack(&stack, NULL);
    for (i = 0; i < count; i++) {
        signal_number = i;
        action.sa_flags = i % 2 ? SA_ONSTACK : 0;
        action.sa_handler = on_signal;
        sigaction(SIGUSR1, &action, NULL);
        interrupted();
        signal_number = 1000 + i;
        action.sa_flags |= SA_SIGINFO;
        action.sa_sigaction = on_fault;
        sigaction(SIGSEGV, &action, NULL);
        faults();
    }
}

/* null COUNT: in the handler of a call through a null pointer, whose caller is told as call number 5000. */
static void (*volatile null)(void);

static void on_null(int signal, siginfo_t *info, void *context) {
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

    (void)signal;
    (void)info;
    descend(signal_number, 4);
    /* Return from it. */
    regs[REG_RIP] = *(greg_t *)regs[REG_RSP];
    regs[REG_RSP] += 8;
    if (signal_number == 0)
        printf("{\"number\": 5000, \"plugin\": \"\", \"returns\": [%lld]}\n", regs[REG_RIP]);
}

SHAPE static void calls_null(void) {
    null();
    STAY();
}

static void do_null(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    const struct sigaction action = {.sa_sigaction = on_null, .sa_flags = SA_SIGINFO};
    unsigned i;

    sigaction(SIGSEGV, &action, NULL);
    for (i = 0; i < count; i++) {
        signal_number = i;
        calls_null();
    }
}

/* pending LEVELS COUNT: by way of functions whose returns are probed, one of them tail-called */
__attribute__((noinline, noclone, visibility("default"))) unsigned long pending_inner(unsigned long number,
                                                                                      unsigned levels) {
    if (levels > 1)
        descend(number, levels);
    else
        call(number);
    STAY();
    return number;
}

__attribute__((noinline, noclone, visibility("default"), optimize("optimize-sibling-calls"))) unsigned long
pending_jumps(unsigned long number, unsigned levels) {
    return pending_inner(number + 1, levels);
}

__attribute__((noinline, noclone, visibility("default"))) unsigned long pending_outer(unsigned long number,
                                                                                      unsigned levels) {
    number = pending_jumps(number, levels);
    STAY();
    return number;
}

static void do_pending(char **argument) {
    const unsigned levels = (unsigned)atoi(argument[0]), count = (unsigned)atoi(argument[1]);
    unsigned i;

    /* libgcc would stumble over the trampoline: the test compares with a run without probes. */
    tell = argument[2] && !strcmp(argument[2], "tell");
    for (i = 0; i < count; i++) {
        pending_outer(i * 2, levels);
        STAY();
    }
}

static const struct {
    const char *name;
    void (*run)(char **argument);
} subjects[] = {
    {"depth", do_depth},     {"distinct", do_distinct}, {"threads", do_threads}, {"signals", do_signals},
    {"pending", do_pending}, {"storm", do_storm},       {"stays", do_stays},     {"exec", do_exec},
    {"fork", do_fork},       {"jit", do_jit},           {"blob", do_blob},       {"moved", do_moved},
    {"null", do_null},
};

static void wait_for_line(void) {
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(1);
}

int main(int argc, char **argv) {
    void *first[1];
    size_t i;

    if (argc < 2)
        return 2;
    backtrace(first, 1); /* loads libgcc */
    if (argc < 4 || strcmp(argv[3], "again")) {
        printf("{\"pid\": %d}\n", getpid());
        fflush(stdout);
        wait_for_line();
    }
    for (i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++)
        if (!strcmp(argv[1], subjects[i].name))
            subjects[i].run(argv + 2);
    printf("{\"done\": true}\n");
    fflush(stdout);
    wait_for_line();
    return 0;
}
