// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * return_probes_target SUBJECT ROUNDS: calls its probed functions `outer` and `inner` in all the ways that disturb a
 * pending return, and checks every result. Waits for a byte on standard input, ends with status 0, and prints the most
 * calls of them that can be followed ("calls").
 */
#define _GNU_SOURCE
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "return_probes.h"

#define STACK_SIZE (256 << 10)
#define FIBERS 8

static long rounds;
static long calls; /* that come back, and are no others' inner ones */

static void check(int right, const char *what) {
    if (right)
        return;
    fprintf(stderr, "return_probes_target: %s: %s\n", what, strerror(errno));
    _exit(1);
}

/* Runs `action` in the middle of a probed call. */
__attribute__((noinline, used)) long inner(long value, void (*action)(void)) {
    if (action)
        action();
    __asm__ volatile("" : "+r"(value));
    return RETURN_PROBES_RESULT(value);
}

__attribute__((noinline, used)) long outer(long value, void (*action)(void)) {
    if (action)
        action();
    __asm__ volatile("" : "+r"(value));
    return RETURN_PROBES_RESULT(value);
}

static void call(long (*volatile function)(long, void (*)(void)), long value, void (*action)(void)) {
    check(function(value, action) == RETURN_PROBES_RESULT(value), "a call returned something else");
    __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
}

static void *map_stack(size_t size) {
    void *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    check(stack != MAP_FAILED, "mmap");
    return stack;
}

/* Signal handlers on an alternate stack. */

static void raise_signal(void) { check(!pthread_kill(pthread_self(), SIGUSR1), "pthread_kill"); }

static void on_signal(int number) {
    (void)number;
    call(inner, 7, NULL);
}

static sigjmp_buf before_signal;

static void jump_on_signal(int number) {
    (void)number;
    siglongjmp(before_signal, 1);
}

static void jump_out(void) { siglongjmp(before_signal, 1); }

static void jump_inside_on_signal(int number) {
    (void)number;
    inner(7, jump_out);
}

static void handle(void (*handler)(int), void *alt_stack) {
    const stack_t stack = {.ss_sp = alt_stack, .ss_size = STACK_SIZE, .ss_flags = alt_stack ? 0 : SS_DISABLE};
    const struct sigaction action = {.sa_handler = handler, .sa_flags = alt_stack ? SA_ONSTACK : 0};

    check(!sigaltstack(&stack, NULL) && !sigaction(SIGUSR1, &action, NULL), "sigaction");
}

static void call_with_signals(void *alt_stack) {
    handle(on_signal, alt_stack);
    for (long i = 0; i < rounds; i++)
        call(outer, i, raise_signal);
}

struct half {
    char *stack, *alt;
};

static void *signal_thread(void *arg) {
    const struct half *half = arg;

    call_with_signals(half->alt);
    return NULL;
}

/* In a thread whose stack and alternate stack are the halves of one mapping. */
static void run_in_thread(int alt_is_above) {
    char *memory = map_stack(2 * STACK_SIZE);
    struct half half = {memory + (alt_is_above ? 0 : STACK_SIZE), memory + (alt_is_above ? STACK_SIZE : 0)};
    pthread_attr_t attributes;
    pthread_t thread;

    check(!pthread_attr_init(&attributes) && !pthread_attr_setstack(&attributes, half.stack, STACK_SIZE) &&
              !pthread_create(&thread, &attributes, signal_thread, &half) && !pthread_join(thread, NULL),
          "thread");
}

static void alt_above(void) { run_in_thread(1); }
static void alt_below(void) { run_in_thread(0); }
static void alt_of_main(void) { call_with_signals(map_stack(STACK_SIZE)); }

/* Fibers. */

static ucontext_t scheduler, fibers[FIBERS];
static int current;
static __thread ucontext_t *thread_scheduler;

static void yield(void) { check(!swapcontext(&fibers[current], &scheduler), "swapcontext"); }

static void make_fiber(int number, void (*function)(void), void *stack, ucontext_t *link) {
    check(!getcontext(&fibers[number]), "getcontext");
    fibers[number].uc_stack.ss_sp = stack;
    fibers[number].uc_stack.ss_size = STACK_SIZE;
    fibers[number].uc_link = link;
    makecontext(&fibers[number], function, 0);
}

static void run_fibers(void (*function)(void)) {
    /* Side by side in one mapping, where the order of two addresses says nothing. */
    char *memory = map_stack(FIBERS * STACK_SIZE);

    for (int i = 0; i < FIBERS; i++)
        make_fiber(i, function, memory + (i * 5 % FIBERS) * STACK_SIZE, &scheduler);
    for (long i = 0; i < rounds; i++) {
        current = (int)(i * 3 % FIBERS);
        check(!swapcontext(&scheduler, &fibers[current]), "swapcontext");
        call(outer, i, NULL);
    }
}

static void call_and_yield(void) {
    for (long i = 0;; i++) {
        call(outer, i, NULL);
        yield();
    }
}

static void yield_in_call(void) {
    for (long i = 0;; i++)
        call(outer, i, yield);
}

static void fibers_between(void) { run_fibers(call_and_yield); }
static void fibers_inside(void) { run_fibers(yield_in_call); }

/* Fibers that two threads take turns to run. */

static pthread_barrier_t turn;

/* Not inlined: where a thread-local variable lies is not to be kept across the switch. */
__attribute__((noinline)) static void yield_to_thread(void) {
    check(!swapcontext(&fibers[0], thread_scheduler), "swapcontext");
}

static void migrate_between(void) {
    for (long i = 0;; i++) {
        call(outer, i, NULL);
        yield_to_thread();
    }
}

static void migrate_in_call(void) {
    for (long i = 0;; i++)
        call(outer, i, yield_to_thread);
}

static void *take_turns(void *arg) {
    static ucontext_t schedulers[2];
    const long mine = (long)arg;

    thread_scheduler = &schedulers[mine];
    for (long i = 0; i < rounds; i++) {
        pthread_barrier_wait(&turn);
        if (i % 2 == mine)
            check(!swapcontext(&schedulers[mine], &fibers[0]), "swapcontext");
        call(inner, i, NULL);
    }
    return NULL;
}

static void run_migrating(void (*function)(void)) {
    pthread_t threads[2];

    make_fiber(0, function, map_stack(STACK_SIZE), NULL);
    pthread_barrier_init(&turn, NULL, 2);
    for (long i = 0; i < 2; i++)
        check(!pthread_create(&threads[i], NULL, take_turns, (void *)i), "pthread_create");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

static void fibers_migrate(void) { run_migrating(migrate_between); }
static void fibers_migrate_inside(void) { run_migrating(migrate_in_call); }

/* Jumps out of a call. */

__attribute__((noinline)) static void call_deep(int depth) {
    char frame[512];

    __asm__ volatile("" : : "r"(frame) : "memory");
    if (depth)
        call_deep(depth - 1);
    else
        outer(5, raise_signal);
    __asm__ volatile("" : : "r"(frame) : "memory");
}

static void calls_of_coroutine(void) {
    for (;;) {
        for (long i = 0; i < 34; i++)
            call(outer, i, NULL);
        yield();
    }
}

/* Out of a call on the thread's stack; a coroutine goes on below it, and nothing is called on the stack itself. */
static void jump_then_coroutine(void) {
    handle(jump_on_signal, NULL);
    make_fiber(0, calls_of_coroutine, map_stack(STACK_SIZE), &scheduler);
    for (volatile long i = 0; i < rounds; i++) {
        if (!sigsetjmp(before_signal, 1))
            call_deep(8);
        current = 0;
        check(!swapcontext(&scheduler, &fibers[0]), "swapcontext");
    }
}

static void jump_then_calls(void) {
    handle(jump_on_signal, map_stack(STACK_SIZE));
    for (volatile long i = 0; i < rounds; i++) {
        if (!sigsetjmp(before_signal, 1))
            call_deep((int)(i % 16));
        call(outer, i, NULL);
    }
}

/* Out of a call in a handler, on the alternate stack. */
static void jump_off_alt(void) {
    handle(jump_inside_on_signal, map_stack(STACK_SIZE));
    for (volatile long i = 0; i < rounds; i++) {
        if (!sigsetjmp(before_signal, 1))
            raise_signal();
        call(outer, i, NULL);
    }
}

/* What the program itself sees of its stack. */
static int depth_without;
static int depth_here(void) {
    void *frames[64];

    return backtrace(frames, 64);
}
static void compare_depth(void) { check(depth_here() == depth_without, "backtrace() sees something else"); }
static void look_at_depth(void) { depth_without = depth_here(); }

/* As `outer`, and not probed. */
__attribute__((noinline)) static long plain(long value, void (*action)(void)) {
    if (action)
        action();
    __asm__ volatile("" : "+r"(value));
    return RETURN_PROBES_RESULT(value);
}

static long cleaned;

static void clean_up(void *arg) {
    (void)arg;
    cleaned++;
}

static void exit_thread(void) { pthread_exit(NULL); }

static void *exit_inside(void *arg) {
    (void)arg;
    pthread_cleanup_push(clean_up, NULL);
    outer(3, exit_thread);
    pthread_cleanup_pop(0);
    return NULL;
}

static void own_eyes(void) {
    call(plain, 1, look_at_depth);
    for (long i = 0; i < rounds; i++)
        call(outer, i, compare_depth);
    for (long i = 0; i < rounds / 100; i++) {
        pthread_t thread;

        check(!pthread_create(&thread, NULL, exit_inside, NULL) && !pthread_join(thread, NULL), "thread");
    }
    check(cleaned == rounds / 100, "a cleanup handler did not run");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } subjects[] = {
        {"alt_above", alt_above},
        {"alt_below", alt_below},
        {"alt_of_main", alt_of_main},
        {"fibers_between", fibers_between},
        {"fibers_inside", fibers_inside},
        {"fibers_migrate", fibers_migrate},
        {"fibers_migrate_inside", fibers_migrate_inside},
        {"jump_then_coroutine", jump_then_coroutine},
        {"jump_then_calls", jump_then_calls},
        {"jump_off_alt", jump_off_alt},
        {"own_eyes", own_eyes},
    };
    char byte;

    check(argc == 3 && (rounds = atol(argv[2])) > 0 && read(STDIN_FILENO, &byte, 1) == 1, "usage");
    for (size_t i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++)
        if (!strcmp(subjects[i].name, argv[1])) {
            subjects[i].run();
            printf("{\"calls\": %ld}\n", calls);
            return 0;
        }
    return 2;
}
