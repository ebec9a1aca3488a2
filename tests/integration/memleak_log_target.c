// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * memleak_log_target SECONDS THREADS SEED LOG GO DONE: allocates and frees at random, by every function of the C
 * library that does, and knows what it holds. It reads a byte from descriptor GO, works, writes LOG and a byte to DONE,
 * and waits for another byte.
 *
 * What it holds is kept in slots, which lie in its own data: nothing of this is allocated. Threads take any slot, so a
 * block is often freed or moved by another thread than the one that allocated it. Threads end and others come, children
 * are forked, signals come at any time, and some handlers leave by siglongjmp: also out of an allocator's call.
 *
 * LOG has a line for each block, and for each page of a mapping:
 *
 *     block ADDRESS SIZE SITE VIA
 *     page ADDRESS SITE VIA
 *
 * SITE is the function that called the allocator, VIA its caller. Both are called by work(), and that by thread_main().
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STEP __attribute__((noinline, noclone))
/* Nothing that is behind a call may become a jump. */
#define STAY() __asm__ volatile("" ::: "memory")
#define PAGE 4096ul
#define MAX_PAGES 16
#define SLOTS (1 << 14)
#define MAX_THREADS 64

extern char **environ;

/* ---- What is held ---- */

struct origin {
    const char *site, *via;
};

struct slot {
    atomic_flag taken;
    enum { EMPTY, BLOCK, MAPPING } kind;
    char *address;
    size_t size;                   /* of a block */
    struct origin origin;          /* of a block */
    unsigned pages;                /* of a mapping */
    struct origin page[MAX_PAGES]; /* site 0: there is none */
};

static struct slot slots[SLOTS];
static volatile size_t too_large = SIZE_MAX / 4, half_of_all = SIZE_MAX / 2; /* the compiler does not know them */
static atomic_bool stop;
static _Thread_local uint64_t random_state;
static _Thread_local struct origin here; /* the call at hand */

static void die(const char *what) {
    dprintf(2, "memleak_log_target: %s: %s\n", what, strerror(errno));
    _exit(2);
}

static uint32_t random_below(uint32_t limit) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((random_state >> 33) % limit);
}

/* Mostly small; one in 64 beyond the threshold above which malloc maps. */
static size_t random_size(void) {
    if (random_below(64) == 0)
        return 130000 + random_below(300000);
    return 1 + random_below(random_below(8) ? 200 : 9000);
}

/* ---- Sites. Each has a number of copies, so that there are many stacks. ---- */

static void keep(struct slot *slot, void *address, size_t size) {
    slot->kind = address ? BLOCK : EMPTY;
    slot->address = address;
    slot->size = size;
    slot->origin = here;
}

static void must_fail(void *address) {
    if (address)
        die("an allocation that cannot succeed did");
}

typedef void site_function(struct slot *slot, size_t size);

#define SITE(name, number, ...)                                                                                        \
    STEP static void site_##name##_##number(struct slot *slot, size_t size) {                                          \
        here.site = "site_" #name "_" #number;                                                                         \
        __VA_ARGS__;                                                                                                   \
        STAY();                                                                                                        \
    }
#define SITES(name, ...)                                                                                               \
    SITE(name, 0, __VA_ARGS__)                                                                                         \
    SITE(name, 1, __VA_ARGS__)                                                                                         \
    SITE(name, 2, __VA_ARGS__)                                                                                         \
    static site_function *const name[] = {site_##name##_0, site_##name##_1, site_##name##_2};

SITES(malloc_, keep(slot, malloc(size), size))
SITES(calloc_, size_t each = 1 + size / 7; keep(slot, calloc(7, each), 7 * each))
SITES(from_null, keep(slot, realloc(NULL, size), size))
SITES(aligned, keep(slot, aligned_alloc(64, size), size))
SITES(memalign_, keep(slot, memalign(256, size), size))
SITES(valloc_, keep(slot, valloc(size), size))
SITES(pvalloc_, keep(slot, pvalloc(size), size))

SITES(posix, void *block = NULL; if (posix_memalign(&block, 128, size) != 0) die("posix_memalign");
      keep(slot, block, size))

SITES(strdup_, char text[512]; size = size < sizeof(text) ? size : sizeof(text); memset(text, 'x', size - 1);
      text[size - 1] = 0; keep(slot, strdup(text), size))

SITES(asprintf_, char *text = NULL; size = 1 + size % 90;
      /* The library grows and shrinks it as it likes: it is freed at once. */
      if (asprintf(&text, "%*d", (int)size, 1) < 0) die("asprintf"); free(text); (void)slot)

/* Nothing comes of these. */
SITES(failing, (void)slot; void *block = NULL; must_fail(malloc(too_large + size)); must_fail(calloc(too_large, size));
      must_fail(realloc(NULL, too_large + size)); must_fail(reallocarray(NULL, half_of_all, 2 + size));
      if (posix_memalign(&block, 3, size) == 0 || posix_memalign(&block, 64, too_large) == 0) die("posix_memalign");
      must_fail(aligned_alloc(64, too_large)))

/* These have a block in the slot. */
static void moved(struct slot *slot, void *address, size_t size) {
    if (!address)
        die("realloc");
    keep(slot, address, size);
}

SITES(realloc_, moved(slot, realloc(slot->address, size), size))
SITES(array, size_t each = 1 + size / 3; moved(slot, reallocarray(slot->address, 3, each), 3 * each))
/* In place, or nearly. */
SITES(shrink, size = 1 + slot->size / 2; moved(slot, realloc(slot->address, size), size))
SITES(same, size = slot->size; moved(slot, realloc(slot->address, size), size))
SITES(no_realloc, must_fail(realloc(slot->address, too_large + size));
      must_fail(reallocarray(slot->address, half_of_all, 3)))
SITES(to_zero, (void)size; must_fail(realloc(slot->address, 0)); slot->kind = EMPTY)
SITES(free_, (void)size; free(slot->address); slot->kind = EMPTY)

/* ---- Mappings ---- */

static void *map(void *address, size_t pages, int flags) {
    return mmap(address, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void mark(struct slot *slot, unsigned first, unsigned count, struct origin origin) {
    for (unsigned i = 0; i < count; i++)
        slot->page[first + i] = origin;
}

SITES(mmap_, unsigned pages = 1 + (unsigned)size % MAX_PAGES; slot->address = map(NULL, pages, 0);
      if (slot->address == MAP_FAILED) die("mmap"); slot->kind = MAPPING; slot->pages = pages;
      mark(slot, 0, pages, here))

SITES(no_mmap, (void)slot; if (map(NULL, SIZE_MAX / PAGE - size % 512, 0) != MAP_FAILED) die("mmap did not fail");
      if (munmap((void *)1, PAGE) == 0) die("munmap did not fail"))

/* A part of it that is there, by `*first` and the return. */
static unsigned part(const struct slot *slot, unsigned *first) {
    unsigned count = 0;
    for (*first = random_below(slot->pages); *first < slot->pages && !slot->page[*first].site; ++*first)
        ;
    while (*first + count < slot->pages && slot->page[*first + count].site && (count == 0 || random_below(4)))
        count++;
    return count;
}

static int is_whole(const struct slot *slot) {
    for (unsigned i = 0; i < slot->pages; i++)
        if (!slot->page[i].site)
            return 0;
    return 1;
}

static void unmap(struct slot *slot, unsigned first, unsigned count) {
    unsigned left = 0;
    if (count && munmap(slot->address + first * PAGE, count * PAGE - random_below(PAGE)) != 0)
        die("munmap");
    mark(slot, first, count, (struct origin){0});
    for (unsigned i = 0; i < slot->pages; i++)
        left += slot->page[i].site != NULL;
    if (!left)
        slot->kind = EMPTY;
}

SITES(cut, (void)size; unsigned first; unsigned count = part(slot, &first); unmap(slot, first, count))

SITES(
    over, (void)size; unsigned first; unsigned count = part(slot, &first); if (count) {
        char *at = slot->address + first * PAGE;
        if (map(at, count, MAP_FIXED) != at)
            die("mmap of a fixed address");
        mark(slot, first, count, here);
    })

/* Larger, or smaller. A mapping that the kernel sees as several cannot grow: then all is as it was. */
SITES(
    mremap_, unsigned pages = 1 + (unsigned)size % MAX_PAGES; if (is_whole(slot)) {
        char *at = mremap(slot->address, slot->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
        if (at != MAP_FAILED) {
            if (pages > slot->pages)
                mark(slot, 0, pages, here);
            slot->address = at;
            slot->pages = pages;
        } else if (errno != EFAULT) {
            die("mremap");
        }
    })

/* To an address of its own choice, which is mapped already. */
SITES(
    put, (void)size; if (is_whole(slot)) {
        char *at = map(NULL, slot->pages, 0);
        if (at == MAP_FAILED)
            die("mmap");
        char *put = mremap(slot->address, slot->pages * PAGE, slot->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at);
        if (put == at)
            slot->address = at;
        else if (errno != EFAULT)
            die("mremap to a fixed address");
        else if (munmap(at, slot->pages * PAGE) != 0)
            die("munmap");
    })

/* ---- Jumps ---- */

static _Thread_local sigjmp_buf jump;
static _Thread_local volatile sig_atomic_t jump_is_set;

static void leave(int number) {
    if (!jump_is_set) {
        dprintf(2, "memleak_log_target: signal %d\n", number);
        _exit(2);
    }
    jump_is_set = 0;
    siglongjmp(jump, 1);
}

static void tick(int number) { (void)number; }

/* Out of a handler, while no allocator's call is pending. */
SITES(
    jump_, (void)slot; (void)size; if (sigsetjmp(jump, 1) == 0) {
        jump_is_set = 1;
        raise(SIGUSR1);
    })
/* Out of a call that has allocated its block, but has nowhere to store the address. Nobody will know this block. */
SITES(
    jump_out_of_memalign, (void)slot; if (sigsetjmp(jump, 1) == 0) {
        void **nowhere = (void **)8;
        __asm__ volatile("" : "+r"(nowhere));
        jump_is_set = 1;
        if (posix_memalign(nowhere, 64, size) == 0)
            die("posix_memalign has stored an address nowhere");
    })
/* Out of one that looks for the old block's size. */
SITES(
    jump_out_of_realloc, (void)slot; if (sigsetjmp(jump, 1) == 0) {
        void *nothing = (void *)0x1000;
        __asm__ volatile("" : "+r"(nothing));
        jump_is_set = 1;
        if (realloc(nothing, size))
            die("realloc of nothing");
    })

/* ---- Children ---- */

STEP static void be_a_child(void) {
    for (int i = 0; i < 20; i++) {
        char *volatile block = malloc(random_size());
        if (i % 2)
            free(block);
    }
    STAY();
}

SITES(
    fork_, (void)slot; (void)size; const pid_t pid = fork(); if (pid == 0) {
        be_a_child();
        _exit(0);
    } int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) die("fork"))

SITES(spawn, (void)slot; (void)size; pid_t pid; char *arguments[] = {(char[]){"true"}, NULL}; int status;
      if (posix_spawnp(&pid, "true", NULL, NULL, arguments, environ) != 0) die("posix_spawn");
      if (waitpid(pid, &status, 0) != pid) die("waitpid"))

/* ---- Work ---- */

struct choice {
    unsigned weight;
    site_function *const *sites;
};
#define CHOICE(weight, name)                                                                                           \
    { weight, name }

static const struct choice on_empty[] = {{60, malloc_},
                                         {20, calloc_},
                                         {10, from_null},
                                         {6, aligned},
                                         {6, memalign_},
                                         {2, valloc_},
                                         {2, pvalloc_},
                                         {8, posix},
                                         {10, strdup_},
                                         {3, asprintf_},
                                         {2, failing},
                                         {12, mmap_},
                                         {1, no_mmap},
                                         {1, jump_},
                                         {1, jump_out_of_memalign},
                                         {1, jump_out_of_realloc}};
static const struct choice on_block[] = {{60, free_}, {20, realloc_},  {5, array},  {8, shrink},
                                         {6, same},   {3, no_realloc}, {4, to_zero}};
static const struct choice on_mapping[] = {{20, cut}, {6, over}, {6, mremap_}, {3, put}};
static const struct choice rarely[] = {{1, fork_}, {1, spawn}};
static site_function *choose(const struct choice *choices, size_t count) {
    unsigned sum = 0, at, i = 0;
    for (size_t each = 0; each < count; each++)
        sum += choices[each].weight;
    for (at = random_below(sum); at >= choices[i].weight; i++)
        at -= choices[i].weight;
    return choices[i].sites[random_below(3)];
}
#define CHOOSE(choices) choose(choices, sizeof(choices) / sizeof((choices)[0]))

typedef void via_function(site_function *site, struct slot *slot, size_t size);
#define VIA(number)                                                                                                    \
    STEP static void via_##number(site_function *site, struct slot *slot, size_t size) {                               \
        here.via = "via_" #number;                                                                                     \
        site(slot, size);                                                                                              \
        STAY();                                                                                                        \
    }
VIA(0) VIA(1) VIA(2) VIA(3) static via_function *const vias[] = {via_0, via_1, via_2, via_3};

STEP static void work(unsigned operations) {
    for (unsigned i = 0; i < operations && !atomic_load(&stop); i++) {
        struct slot *slot = &slots[random_below(SLOTS)];
        site_function *site;
        if (atomic_flag_test_and_set_explicit(&slot->taken, memory_order_acquire))
            continue;
        if (random_below(3000) == 0)
            site = CHOOSE(rarely);
        else if (slot->kind == EMPTY)
            site = CHOOSE(on_empty);
        else if (slot->kind == BLOCK)
            site = CHOOSE(on_block);
        else
            site = CHOOSE(on_mapping);
        vias[random_below(4)](site, slot, random_size());
        atomic_flag_clear_explicit(&slot->taken, memory_order_release);
    }
    STAY();
}

struct thread {
    pthread_t id;
    uint64_t seed;
    unsigned operations;
    int has_alternate_stack;
    atomic_bool ended;
    char alternate_stack[1 << 16];
};
static struct thread threads[MAX_THREADS];

STEP static void *thread_main(void *argument) {
    struct thread *thread = argument;
    random_state = thread->seed;
    if (thread->has_alternate_stack) {
        const stack_t stack = {.ss_sp = thread->alternate_stack, .ss_size = sizeof(thread->alternate_stack)};
        if (sigaltstack(&stack, NULL) != 0)
            die("sigaltstack");
    }
    work(thread->operations);
    atomic_store(&thread->ended, 1);
    return NULL;
}

static void start(struct thread *thread) {
    thread->seed = random_below(1u << 31);
    thread->operations = 2000 + random_below(50000);
    thread->has_alternate_stack = random_below(2) != 0;
    atomic_store(&thread->ended, 0);
    if ((errno = pthread_create(&thread->id, NULL, thread_main, thread)) != 0)
        die("pthread_create");
}

static void join(struct thread *thread) {
    if ((errno = pthread_join(thread->id, NULL)) != 0)
        die("pthread_join");
}

/* ---- The log ---- */

static char text[1 << 16];
static size_t text_length;

static void flush(int fd) {
    for (size_t at = 0; at < text_length;) {
        const ssize_t written = write(fd, text + at, text_length - at);
        if (written < 0)
            die("the log");
        at += (size_t)written;
    }
    text_length = 0;
}

__attribute__((format(printf, 2, 3))) static void say(int fd, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    text_length += (size_t)vsnprintf(text + text_length, sizeof(text) - text_length, format, arguments);
    va_end(arguments);
    if (text_length > sizeof(text) - 256)
        flush(fd);
}

static void write_log(const char *path) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        die(path);
    for (const struct slot *slot = slots; slot < slots + SLOTS; slot++) {
        if (slot->kind == BLOCK)
            say(fd, "block %#lx %zu %s %s\n", (unsigned long)slot->address, slot->size, slot->origin.site,
                slot->origin.via);
        for (unsigned i = 0; slot->kind == MAPPING && i < slot->pages; i++)
            if (slot->page[i].site)
                say(fd, "page %#lx %s %s\n", (unsigned long)(slot->address + i * PAGE), slot->page[i].site,
                    slot->page[i].via);
    }
    flush(fd);
    if (close(fd) != 0)
        die(path);
}

static void handle(int number, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK | SA_RESTART};
    if (sigaction(number, &action, NULL) != 0)
        die("sigaction");
}

int main(int argc, char **argv) {
    char byte;
    if (argc != 7)
        die("usage: memleak_log_target SECONDS THREADS SEED LOG GO DONE");
    const time_t seconds = strtol(argv[1], NULL, 10);
    const int count = (int)strtol(argv[2], NULL, 10), go = (int)strtol(argv[5], NULL, 10);
    const int done = (int)strtol(argv[6], NULL, 10);
    random_state = strtoull(argv[3], NULL, 10);
    if (count > MAX_THREADS)
        die("too many threads");
    handle(SIGUSR1, leave);
    handle(SIGSEGV, leave);
    handle(SIGALRM, tick);
    if (read(go, &byte, 1) != 1)
        die("nobody says go");

    struct timespec begin, now;
    const struct itimerspec interval = {.it_interval = {0, 700000}, .it_value = {0, 700000}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 || timer_settime(timer, 0, &interval, NULL) != 0)
        die("timer");
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < count; i++)
        start(&threads[i]);
    do {
        for (int i = 0; i < count; i++)
            if (atomic_load(&threads[i].ended)) {
                join(&threads[i]);
                start(&threads[i]);
            }
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < begin.tv_sec + seconds);
    atomic_store(&stop, 1);
    for (int i = 0; i < count; i++)
        join(&threads[i]);
    timer_delete(timer);
    write_log(argv[4]);
    if (write(done, "", 1) != 1 || read(go, &byte, 1) != 1)
        die("nobody listens");
    return 0;
}
