// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What is stepped through: ordinary code of every shape that CFI has to describe, in scenarios named by the argument.
// The tracer steps between two breakpoints. Built by several compilers and libcs; nothing here knows of the tracer.
#define _GNU_SOURCE
#include "target_library.h"

#include <alloca.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define BREAKPOINT() __asm__ volatile("int3" ::: "memory")
// What is computed here is computed, and calls in front of it are no tail calls.
#define KEEP(value) __asm__ volatile("" : "+r"(value)::"memory")

static NOINLINE long leaf_in_the_red_zone(long x) {
    volatile long slots[12];
    for (int i = 0; i < 12; ++i)
        slots[i] = x + i;
    return slots[x & 7];
}

static NOINLINE long saves_every_register(long a, long b, long c, long d, long e, long f) {
    long x = leaf_in_the_red_zone(a), y = leaf_in_the_red_zone(b);
    long z = leaf_in_the_red_zone(c), w = leaf_in_the_red_zone(d);
    long sum = leaf_in_the_red_zone(e) + leaf_in_the_red_zone(f);
    sum += a * x + b * y + c * z + d * w + e + f;
    KEEP(sum);
    return sum;
}

// Seven arguments and more go on the stack.
static NOINLINE long many_arguments(long a, long b, long c, long d, long e, long f, long g, long h, long i) {
    long sum = saves_every_register(a, b, c, d, e, f) + g * h - i;
    KEEP(sum);
    return sum;
}

static NOINLINE long big_frame(long x) {
    volatile char buffer[3 * 65536];
    buffer[0] = (char)x;
    buffer[sizeof(buffer) - 1] = 1;
    long result = leaf_in_the_red_zone(x) + buffer[0];
    KEEP(result);
    return result;
}

static NOINLINE long variable_array(long n) {
    volatile long values[n];
    for (long i = 0; i < n; ++i)
        values[i] = leaf_in_the_red_zone(i);
    char *more = alloca((size_t)n * 16);
    memset(more, 1, (size_t)n * 16);
    long result = values[n - 1] + more[n] + many_arguments(1, 2, 3, 4, 5, 6, 7, 8, n);
    KEEP(result);
    return result;
}

static NOINLINE long tail_called(long x) { return saves_every_register(x, 1, 2, 3, 4, 5); }
static NOINLINE long makes_a_tail_call(long x) {
    long y = leaf_in_the_red_zone(x);
    KEEP(y);
    return tail_called(y);
}

// The frame is set up on one path only.
static NOINLINE long shrink_wrapped(long x) {
    if (x < 3)
        return x;
    long sum = 0;
    for (long i = 0; i < x; ++i)
        sum += shrink_wrapped(i) ^ sum;
    return sum;
}

static NOINLINE double varargs(int count, ...) {
    va_list list;
    va_start(list, count);
    double sum = 0;
    for (int i = 0; i < count; ++i)
        sum += va_arg(list, double);
    va_end(list);
    return sum + (double)leaf_in_the_red_zone(count);
}

// The stack is realigned: GCC then finds the frame by r10, and by a copy of it in memory.
static NOINLINE long overaligned(long x) {
    _Alignas(64) volatile long slots[8];
    slots[x & 7] = x;
    long result = saves_every_register(x, 2, 3, 4, 5, 6) + slots[x & 7];
    KEEP(result);
    return result;
}
static NOINLINE long overaligned_and_variable(long n) {
    _Alignas(64) volatile long slots[8];
    char *more = alloca((size_t)n * 8);
    memset(more, 2, (size_t)n * 8);
    slots[n & 7] = more[n - 1];
    long result = many_arguments(1, 2, 3, 4, 5, 6, 7, 8, slots[n & 7]) + overaligned(n);
    KEEP(result);
    return result;
}
static NOINLINE double overaligned_varargs(int count, ...) {
    _Alignas(32) volatile double slots[4];
    va_list list;
    va_start(list, count);
    for (int i = 0; i < count; ++i)
        slots[i & 3] = va_arg(list, double);
    va_end(list);
    return slots[0] + slots[1] + (double)overaligned(count);
}

static jmp_buf jump;
static NOINLINE __attribute__((noreturn)) void leaves_by_longjmp(int value) { longjmp(jump, value); }
// The call is this function's last instruction: its return address is another function's.
static NOINLINE __attribute__((noreturn)) void never_returns(int value) {
    if (leaf_in_the_red_zone(value) > 1000)
        exit(1);
    leaves_by_longjmp(value);
}
static NOINLINE long jumps_back(int value) {
    int got = setjmp(jump);
    if (got == 0)
        never_returns(value);
    return leaf_in_the_red_zone(got);
}

static int compare(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    long order = leaf_in_the_red_zone(x) - leaf_in_the_red_zone(y);
    KEEP(order);
    return (order > 0) - (order < 0);
}

typedef long (*function)(long);
static const function by_pointer[] = {leaf_in_the_red_zone, makes_a_tail_call, shrink_wrapped, overaligned};

static NOINLINE long frames(void) {
    long sum = many_arguments(1, 2, 3, 4, 5, 6, 7, 8, 9) + big_frame(3) + variable_array(6) + makes_a_tail_call(4);
    sum += shrink_wrapped(6) + overaligned(5) + overaligned_and_variable(5);
    sum += (long)varargs(3, 1.0, 2.0, 3.0) + (long)overaligned_varargs(3, 1.0, 2.0, 3.0);
    sum += jumps_back(7);
    for (size_t i = 0; i < sizeof(by_pointer) / sizeof(by_pointer[0]); ++i)
        sum += by_pointer[i]((long)i);
    KEEP(sum);
    return sum;
}

static NOINLINE long libc(void) {
    long values[] = {5, 3, 9, 1, 7};
    qsort(values, 5, sizeof(values[0]), compare);
    char text[200];
    long sum = snprintf(text, sizeof(text), "%ld %s %.6f %#x", values[0], "text", 3.25, 77u);
    sum += strtol(text, NULL, 10) + (long)strtod("2.5e3", NULL);
    char *copy = strdup(text);
    sum += (long)strlen(copy) + memcmp(copy, text, 4);
    free(copy);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); // the vDSO's
    sum += now.tv_sec + (long)time(NULL) + getpid();
    KEEP(sum);
    return sum;
}

// Each function is bound at its first call, and called once more by its bound stub.
static NOINLINE long plt(void) {
    long sum = 0;
    for (int i = 0; i < 2; ++i) {
        sum += library_add(1, 2) + library_calls_back(compare, &sum);
        sum += (long)library_floats(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9);
    }
    KEEP(sum);
    return sum;
}

static volatile sig_atomic_t handled;
static sigjmp_buf signal_jump;
static void brief_handler(int signal) { handled += signal; }
static void nested_handler(int signal) { handled += (int)leaf_in_the_red_zone(signal & 1); }
static void handler(int signal) {
    (void)signal;
    handled += (int)overaligned(2);
}
static void handler_with_info(int signal, siginfo_t *info, void *context) {
    (void)context;
    handled += info->si_signo == signal;
    raise(SIGURG);
    handled += (int)leaf_in_the_red_zone(1);
}
static void leaving_handler(int signal) {
    (void)signal;
    siglongjmp(signal_jump, 1);
}

static void handle(int signal, void (*plain)(int), void (*with_info)(int, siginfo_t *, void *), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_flags = flags;
    if (with_info != NULL)
        action.sa_sigaction = with_info, action.sa_flags |= SA_SIGINFO;
    else
        action.sa_handler = plain;
    if (sigaction(signal, &action, NULL) != 0)
        abort();
}

// A fault at a function's very first byte.
long faults_at_once(volatile long *);
__asm__(".text\n"
        ".type faults_at_once, @function\n"
        ".balign 16\n"
        "faults_at_once:\n"
        ".cfi_startproc\n"
        "mov (%rdi), %rax\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size faults_at_once, . - faults_at_once\n");

static NOINLINE long signals(void) {
    raise(SIGUSR1);
    raise(SIGUSR2);
    volatile long sum = handled;
    if (sigsetjmp(signal_jump, 1) == 0)
        sum += faults_at_once(NULL);
    return sum;
}

static void *thread_body(void *argument) {
    long sum = saves_every_register((long)argument, 1, 2, 3, 4, 5) + overaligned(3);
    KEEP(sum);
    return (void *)sum;
}
static NOINLINE long threads(void) {
    pthread_t thread[2];
    for (long i = 0; i < 2; ++i)
        if (pthread_create(&thread[i], NULL, thread_body, (void *)i) != 0)
            abort();
    long sum = leaf_in_the_red_zone(1);
    for (int i = 0; i < 2; ++i)
        pthread_join(thread[i], NULL);
    KEEP(sum);
    return sum;
}

static NOINLINE long resolver(void) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    long result = getaddrinfo("192.0.2.1", "80", &hints, &found);
    if (result == 0)
        freeaddrinfo(found);
    KEEP(result);
    return result;
}

// Above the interrupted frames, in one piece of stack with them.
static NOINLINE long on_another_stack(long (*run)(void)) {
    char stack[32768];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof(stack)};
    stack_t none = {.ss_flags = SS_DISABLE};
    if (sigaltstack(&other, NULL) != 0)
        abort();
    handle(SIGALRM, brief_handler, NULL, SA_ONSTACK);
    handle(SIGUSR1, handler, NULL, SA_ONSTACK);
    handle(SIGUSR2, NULL, handler_with_info, SA_ONSTACK);
    handle(SIGURG, nested_handler, NULL, SA_ONSTACK);
    handle(SIGSEGV, leaving_handler, NULL, SA_ONSTACK);
    BREAKPOINT();
    long result = run();
    BREAKPOINT();
    sigaltstack(&none, NULL);
    KEEP(result);
    return result;
}

static NOINLINE long on_this_stack(long (*run)(void)) {
    handle(SIGALRM, brief_handler, NULL, 0);
    handle(SIGUSR1, handler, NULL, 0);
    handle(SIGUSR2, NULL, handler_with_info, 0);
    handle(SIGURG, nested_handler, NULL, SA_NODEFER);
    handle(SIGSEGV, leaving_handler, NULL, 0);
    BREAKPOINT();
    long result = run();
    BREAKPOINT();
    KEEP(result);
    return result;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        long (*run)(void);
    } scenarios[] = {{"frames", frames},   {"libc", libc},       {"plt", plt},
                     {"signals", signals}, {"threads", threads}, {"resolver", resolver}};
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "exit") == 0) { // from here to the end, without a second breakpoint
        BREAKPOINT();
        return 0;
    }
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); ++i) {
        if (strcmp(name, scenarios[i].name) != 0)
            continue;
        long result = argc > 2 ? on_another_stack(scenarios[i].run) : on_this_stack(scenarios[i].run);
        KEEP(result);
        return 0;
    }
    fprintf(stderr, "no scenario %s\n", name);
    return 2;
}
