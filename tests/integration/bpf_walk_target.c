// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * bpf_walk_target SUBJECT [argument]…: a program that records its own stacks. Prints its pid, waits for a line, and
 * calls probe_here(number) from stacks of many shapes. For each it prints {"number": n, "returns": […]}: the return
 * addresses that libgcc's unwinder finds, innermost first, from call()'s own on. Waits for another line before it ends.
 *
 * Compiled without frame pointers and without sibling calls.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_DEPTH 2048

static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;
static bool tell = true;
static const char *plugin_name = "";

#define SHAPE __attribute__((noinline, noclone))
/* Nothing that is behind a call may become a jump. */
#define STAY() __asm__ volatile("" ::: "memory")

/* The first instruction is a nop: a probe on one that the kernel need not step over. */
__attribute__((noinline, noclone, visibility("default"), patchable_function_entry(1))) unsigned long
probe_here(unsigned long number) {
    __asm__ volatile("" : "+r"(number));
    return number;
}

SHAPE static void call(unsigned long number) {
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

static void descend(unsigned long number, unsigned levels);

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

static void descend(unsigned long number, unsigned levels) {
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

/* storm COUNT FILE FILE: plugins that take each other's place */
static void from_plugin(unsigned long number) {
    call(number);
    STAY();
}

SHAPE static void storm_once(unsigned long number, const char *file) {
    void *plugin = dlopen(file, RTLD_NOW);
    void (*run)(unsigned long, void (*)(unsigned long));

    if (!plugin)
        exit(3);
    run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
    plugin_name = file;
    run(number, from_plugin);
    plugin_name = "";
    dlclose(plugin);
}

static void do_storm(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    const char *pause = argument[3];
    unsigned i;

    for (i = 0; i < count; i++) {
        storm_once(i * 2, argument[1 + i % 2]);
        call(i * 2 + 1);
        /* Now and then long enough for what is loaded to be published. */
        if (pause && i % 8 == 7)
            usleep((useconds_t)atoi(pause));
    }
}

/* stays COUNT FILE MICROSECONDS: one plugin, for so long that it gets to be walked in the kernel */
static void do_stays(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    void *plugin = dlopen(argument[1], RTLD_NOW);
    void (*run)(unsigned long, void (*)(unsigned long));
    unsigned i;

    if (!plugin)
        exit(3);
    run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
    plugin_name = argument[1];
    for (i = 0; i < count; i++) {
        run(i, from_plugin);
        usleep((useconds_t)atoi(argument[2]));
    }
}

/* exec COUNT: this program again and again */
static char **own_arguments;

static void do_exec(char **argument) {
    const unsigned left = (unsigned)atoi(argument[0]);
    char number[16];

    descend(left, 6);
    if (left == 0)
        return;
    fflush(stdout);
    snprintf(number, sizeof(number), "%u", left - 1);
    execl("/proc/self/exe", own_arguments[0], "exec", number, "again", NULL);
    exit(4);
}

/* fork COUNT: children that call, one after the other */
static void do_fork(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    unsigned i;

    for (i = 0; i < count; i++) {
        pid_t child;

        fflush(stdout);
        child = fork();
        if (child == 0) {
            descend(i, 7);
            fflush(stdout);
            _exit(0);
        }
        waitpid(child, NULL, 0);
        descend(1000 + i, 7);
    }
}

/* push rbp; mov rbp, rsp; call rsi; pop rbp; ret */
static const unsigned char with_frame_pointer[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd6, 0x5d, 0xc3};

static void run_page(void *page, unsigned count) {
    unsigned i;

    tell = false; /* libgcc has no rule for that page */
    for (i = 0; i < count; i++) {
        ((void (*)(unsigned long, void (*)(unsigned long)))page)(i % 4, from_plugin);
        usleep(1000);
    }
}

/* jit COUNT: by way of code without a file, which has no call-frame information */
static void do_jit(char **argument) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        exit(5);
    memcpy(page, with_frame_pointer, sizeof(with_frame_pointer));
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    run_page(page, (unsigned)atoi(argument[0]));
}

/* blob COUNT: by way of code in a file that is no ELF image */
static void do_blob(char **argument) {
    char name[] = "/tmp/bpf_walk_blob_XXXXXX";
    static char pages[8192] = "no ELF image";
    const int fd = mkstemp(name);
    void *page;

    memcpy(pages + 4096, with_frame_pointer, sizeof(with_frame_pointer));
    if (fd < 0 || write(fd, pages, sizeof(pages)) != sizeof(pages))
        exit(6);
    page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 4096);
    unlink(name);
    if (page == MAP_FAILED)
        exit(6);
    run_page(page, (unsigned)atoi(argument[0]));
}

/* The code of a file becomes memory without one, at the same place. */
static void move_text(const char *file) {
    const char *name = strrchr(file, '/');
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long start, end;
    char line[4096];

    while (maps && fgets(line, sizeof(line), maps)) {
        void *copy;

        if (!strstr(line, name) || !strstr(line, " r-xp ") || sscanf(line, "%lx-%lx", &start, &end) != 2)
            continue;
        copy = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy == MAP_FAILED)
            exit(7);
        memcpy(copy, (void *)start, end - start);
        mprotect(copy, end - start, PROT_READ | PROT_EXEC);
        if (mremap(copy, end - start, end - start, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)start) != (void *)start)
            exit(7);
        fclose(maps);
        return;
    }
    exit(7);
}

/* moved COUNT FILE FILE: a plugin's code is moved to memory without a file, after a third of its calls */
static void do_moved(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    void *plugin = dlopen(argument[1], RTLD_NOW);
    void (*run)(unsigned long, void (*)(unsigned long));
    unsigned i;

    if (!plugin)
        exit(7);
    run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
    plugin_name = argument[1];
    for (i = 0; i < count; i++) {
        if (i == count / 3) {
            move_text(argument[1]);
            if (!dlopen(argument[2], RTLD_NOW)) /* the map is looked at again */
                exit(7);
        }
        run(i, from_plugin);
        usleep(2000);
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
    own_arguments = argv;
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
