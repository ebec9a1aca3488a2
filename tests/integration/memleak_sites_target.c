/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * memleak_sites_target [ROUNDS]: leaves blocks from known sites, one of each kind, in four threads. Prints "ready" and
 * waits for a line; works; prints a line for each site, "site NAME BLOCKS BYTES", and "done"; waits for another line.
 * Without ROUNDS each site leaves one block in each thread.
 *
 * memleak_sites_new.cc has the sites of C++; WITHOUT_CXX leaves them out.
 */
#define _GNU_SOURCE
#include "memleak_sites.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS 4
#define MAX_SITES 64
#define PAGE 4096ul

/* ---- What was left ---- */

static struct site {
    const char *name;
    unsigned long blocks, bytes;
} sites[MAX_SITES];
static pthread_mutex_t sites_lock = PTHREAD_MUTEX_INITIALIZER;
static void *volatile kept;

void left(const char *name, void *block, size_t size) {
    unsigned i;
    kept = block;
    if (!block || block == MAP_FAILED) {
        fprintf(stderr, "memleak_sites_target: %s failed\n", name);
        _exit(2);
    }
    pthread_mutex_lock(&sites_lock);
    for (i = 0; sites[i].name && strcmp(sites[i].name, name) != 0; i++)
        ;
    sites[i].name = name;
    sites[i].blocks++;
    sites[i].bytes += size;
    pthread_mutex_unlock(&sites_lock);
}

/* ---- Sites ---- */

#define SITE(name, ...)                                                                                                \
    SITE_STEP static void site_##name(void) {                                                                          \
        static const char self[] __attribute__((unused)) = "site_" #name;                                              \
        __VA_ARGS__;                                                                                                   \
        SITE_STAY();                                                                                                   \
    }

static volatile size_t too_large = SIZE_MAX / 4; /* the compiler does not know it */

/* A block whose stack is not asked for: it is freed or moved. */
SITE_STEP static void *some_block(size_t size) {
    void *block = malloc(size);
    if (!block)
        _exit(2);
    SITE_STAY();
    return block;
}

SITE(malloc, left(self, malloc(2001), 2001))
/* Above the threshold for mappings. */
SITE(malloc_large, left(self, malloc(1000001), 1000001))
SITE(calloc, left(self, calloc(7, 287), 2009))
SITE(realloc_null, left(self, realloc(NULL, 2011), 2011))
SITE(realloc_grow, left(self, realloc(some_block(10), 200003), 200003))
SITE(realloc_shrink, left(self, realloc(some_block(9000), 2017), 2017))
SITE(realloc_failed, void *block = malloc(2027); left(self, block, 2027); if (realloc(block, too_large)) _exit(2))
SITE(reallocarray, left(self, reallocarray(some_block(10), 3, 677), 2031))
SITE(posix_memalign, void *block = NULL; if (posix_memalign(&block, 64, 2039) != 0) _exit(2); left(self, block, 2039))
SITE(posix_memalign_failed, void *block = &block; if (posix_memalign(&block, 3, 2040) == 0) _exit(2))
SITE(aligned_alloc, left(self, aligned_alloc(64, 2048), 2048))
SITE(memalign, left(self, memalign(64, 2053), 2053))
SITE(valloc, left(self, valloc(2063), 2063))
#ifdef __GLIBC__
/* Allocators tell the rounded size, or the size that was asked for. */
SITE(pvalloc, left(self, pvalloc(PAGE), PAGE))
#endif
SITE(strdup, left(self, strdup("a string"), 9))
SITE(strndup, left(self, strndup("another string", 11), 12))
SITE(freed, free(some_block(2081)); free(realloc(malloc(2083), 3000)); free(calloc(3, 700)); free(malloc(1000001)))

static void *map(void *address, size_t pages, int flags) {
    return mmap(address, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

SITE(mmap, left(self, map(NULL, 5, 0), 5 * PAGE))
SITE(mmap_cut, char *start = map(NULL, 7, 0); if (munmap(start + 2 * PAGE, 2 * PAGE) != 0) _exit(2);
     left(self, start, 2 * PAGE); left(self, start + 4 * PAGE, 3 * PAGE))
SITE(mmap_fixed, char *start = map(NULL, 3, 0); left(self, map(start, 3, MAP_FIXED), 3 * PAGE))
SITE(mremap, left(self, mremap(map(NULL, 2, 0), 2 * PAGE, 11 * PAGE, MREMAP_MAYMOVE), 11 * PAGE))
SITE(munmapped, if (munmap(map(NULL, 13, 0), 13 * PAGE) != 0) _exit(2))

/* Called by the C library. */
SITE_STEP static int in_callback(const void *one, const void *other) {
    static const char self[] = "site_callback";
    (void)other;
    if (*(const int *)one != 0)
        left(self, malloc(2087), 2087);
    SITE_STAY();
    return 0;
}
SITE_STEP static int site_callback(const void *one, const void *other) {
    const int order = in_callback(one, other);
    SITE_STAY();
    return order;
}
SITE_STEP static void call_back(void) {
    int numbers[2] = {1, 1};
    qsort(numbers, 2, sizeof(numbers[0]), site_callback); /* compares once */
    SITE_STAY();
}

SITE_STEP static void site_handler(int number) {
    (void)number;
    left("site_handler", malloc(2089), 2089);
    SITE_STAY();
}

SITE_STEP static void site_deep(int depth) {
    if (depth > 0)
        site_deep(depth - 1);
    else
        left("site_deep", malloc(2099), 2099);
    SITE_STAY();
}

/* The frame's size is known when it runs only. */
SITE_STEP static void site_alloca(size_t size) {
    volatile char *buffer = __builtin_alloca(size);
    buffer[0] = 1;
    left("site_alloca", malloc(2111), 2111);
    SITE_STAY();
}

SITE_STEP static void all_sites(void) {
    site_malloc();
    site_malloc_large();
    site_calloc();
    site_realloc_null();
    site_realloc_grow();
    site_realloc_shrink();
    site_realloc_failed();
    site_reallocarray();
    site_posix_memalign();
    site_posix_memalign_failed();
    site_aligned_alloc();
    site_memalign();
    site_valloc();
#ifdef __GLIBC__
    site_pvalloc();
#endif
    site_strdup();
    site_strndup();
    site_freed();
    site_mmap();
    site_mmap_cut();
    site_mmap_fixed();
    site_mremap();
    site_munmapped();
    call_back();
    raise(SIGUSR1);
    site_deep(100);
    site_alloca(100);
#ifndef WITHOUT_CXX
    cxx_sites();
#endif
    SITE_STAY();
}

static long rounds = 1;

SITE_STEP static void *thread_main(void *unused) {
    for (long i = 0; i < rounds; i++)
        all_sites();
    SITE_STAY();
    return unused;
}

static void wait_for_line(void) {
    char c;
    while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
        ;
}

int main(int argc, char **argv) {
    static char buffer[1 << 16];
    pthread_t ids[THREADS];
    struct sigaction action = {.sa_handler = site_handler};
    setvbuf(stdout, buffer, _IOLBF, sizeof(buffer)); /* nothing of its own is allocated meanwhile */
    if (argc > 1)
        rounds = strtol(argv[1], NULL, 10);
    sigaction(SIGUSR1, &action, NULL);
#ifdef __GLIBC__
    /* A preloaded allocator leaves pvalloc to glibc. Its malloc, which begins at the first call, must not begin in two
       threads at once. */
    mallopt(M_TRIM_THRESHOLD, 128 * 1024);
#endif
    puts("ready");
    wait_for_line();
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&ids[i], NULL, thread_main, NULL) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        if (pthread_join(ids[i], NULL) != 0)
            return 1;
    for (const struct site *site = sites; site->name; site++)
        printf("site %s %lu %lu\n", site->name, site->blocks, site->bytes);
    puts("done");
    wait_for_line();
    return 3;
}
