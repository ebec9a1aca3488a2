// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A program that leaks through every function that memleak watches, each with a size of its own. It waits for a line on
// standard input before its work ("ready PID") and after it ("done"). In between it prints its leaks:
//
//     leaked SIZE BLOCKS FUNCTION      FUNCTION called the allocator
//     mapped SIZE BLOCKS FUNCTION BYTES  as above; below it are mappings of BYTES, which bcc's memleak sees instead
//
// With a number as argument, it only allocates, and leaks that many blocks of 48 bytes, 40 calls deep, as fast as it
// can; with "distinct" after the number, each block has another stack.
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// A frame of its own: neither inlined nor cloned, and its last call is no jump.
#define STEP __attribute__((noinline, noclone))
#define END_OF_STEP __asm__ volatile("")

static void *volatile kept;

STEP static void keep(void *block) {
    kept = block;
    END_OF_STEP;
}

STEP static void leak_malloc(void) {
    for (int i = 0; i < 11; i++)
        keep(malloc(1001));
    END_OF_STEP;
}

STEP static void leak_calloc(void) {
    for (int i = 0; i < 12; i++)
        keep(calloc(17, 61)); // 1037
    END_OF_STEP;
}

STEP static void leak_realloc(void) {
    for (int i = 0; i < 13; i++) {
        void *block = malloc(20);
        keep(block);
        keep(realloc(block, 1103));
    }
    END_OF_STEP;
}

STEP static void leak_posix_memalign(void) {
    for (int i = 0; i < 14; i++) {
        void *block = NULL;
        if (posix_memalign(&block, 64, 1201) == 0)
            keep(block);
    }
    END_OF_STEP;
}

STEP static void leak_aligned_alloc(void) {
    for (int i = 0; i < 15; i++)
        keep(aligned_alloc(64, 1301));
    END_OF_STEP;
}

STEP static void leak_memalign(void) {
    for (int i = 0; i < 16; i++)
        keep(memalign(64, 1409));
    END_OF_STEP;
}

STEP static void leak_valloc(void) {
    for (int i = 0; i < 3; i++)
        keep(valloc(1501));
    END_OF_STEP;
}

STEP static void leak_pvalloc(void) {
    for (int i = 0; i < 3; i++)
        keep(pvalloc(1601));
    END_OF_STEP;
}

STEP static void leak_mmap(void) {
    for (int i = 0; i < 4; i++)
        keep(mmap(NULL, 0x7000, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    END_OF_STEP;
}

STEP static void leak_mremap(void) {
    for (int i = 0; i < 5; i++) {
        void *block = mmap(NULL, 0x9000, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        keep(mremap(block, 0x9000, 0xb000, MREMAP_MAYMOVE));
    }
    END_OF_STEP;
}

// Above the allocator's threshold for mappings: the mapping is made, and returns, within malloc.
STEP static void leak_big(void) {
    for (int i = 0; i < 6; i++)
        keep(malloc(1000000)); // 1003520 with its page and header
    END_OF_STEP;
}

STEP static void leak_nothing(void) {
    for (int i = 0; i < 100; i++) {
        void *block = malloc(1701);
        keep(block);
        free(block);
        block = mmap(NULL, 0xd000, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        keep(block);
        munmap(block, 0xd000);
        keep(malloc(SIZE_MAX / 2 + (size_t)i)); // fails
    }
    END_OF_STEP;
}

STEP static void leak_by_alloca(int n) {
    char buffer[n]; // the frame's size is known when it runs only
    __asm__ volatile("" : : "r"(buffer) : "memory");
    keep(malloc(1801));
    END_OF_STEP;
}

STEP static void leak_deep(int depth) {
    if (depth > 0)
        leak_deep(depth - 1);
    else
        keep(malloc(1901));
    END_OF_STEP;
}

STEP static void work(void) {
    leak_malloc();
    leak_calloc();
    leak_realloc();
    leak_posix_memalign();
    leak_aligned_alloc();
    leak_memalign();
    leak_valloc();
    leak_pvalloc();
    leak_mmap();
    leak_mremap();
    leak_big();
    leak_nothing();
    for (int i = 1; i <= 7; i++)
        leak_by_alloca(100 * i);
    leak_deep(100);
    END_OF_STEP;
}

STEP static void leak_in_thread(void) {
    void *first = malloc(1); // within which the thread's arena is mapped
    keep(first);
    free(first);
    for (int i = 0; i < 9; i++)
        keep(malloc(2003));
    END_OF_STEP;
}

STEP static void *thread(void *unused) {
    leak_in_thread();
    END_OF_STEP;
    return unused;
}

STEP static void leak_fast(long blocks, int depth) {
    if (depth > 0) {
        leak_fast(blocks, depth - 1);
        END_OF_STEP;
        return;
    }
    for (long i = 0; i < blocks; i++)
        keep(malloc(48));
    END_OF_STEP;
}

// Which of the two calls is made tells the stacks of different paths from each other.
STEP static void leak_distinct(long path, int depth) {
    if (depth == 0) {
        keep(malloc(48));
    } else if (path & 1) {
        leak_distinct(path >> 1, depth - 1);
        __asm__ volatile("nop");
    } else {
        leak_distinct(path >> 1, depth - 1);
    }
    END_OF_STEP;
}

static void wait_for_line(void) {
    char c;
    while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
        ;
}

int main(int argc, char **argv) {
    char line[256];
    setvbuf(stdout, line, _IOLBF, sizeof(line)); // nothing of its own is allocated meanwhile
    printf("ready %d\n", getpid());
    wait_for_line();
    if (argc > 1) {
        const long blocks = strtol(argv[1], NULL, 10);
        if (argc > 2)
            for (long i = 0; i < blocks; i++)
                leak_distinct(i, 20);
        else
            leak_fast(blocks, 40);
        printf("leaked 48 %ld %s\n", blocks, argc > 2 ? "leak_distinct" : "leak_fast");
    } else {
        pthread_t id;
        work();
        if (pthread_create(&id, NULL, thread, NULL) || pthread_join(id, NULL)) {
            fputs("no thread\n", stderr);
            return 1;
        }
        puts("leaked 1001 11 leak_malloc\n"
             "leaked 1037 12 leak_calloc\n"
             "leaked 1103 13 leak_realloc\n"
             "leaked 1201 14 leak_posix_memalign\n"
             "leaked 1301 15 leak_aligned_alloc\n"
             "leaked 1409 16 leak_memalign\n"
             "leaked 1501 3 leak_valloc\n"
             "leaked 1601 3 leak_pvalloc\n"
             "leaked 28672 4 leak_mmap\n"
             "leaked 45056 5 leak_mremap\n"
             "mapped 1000000 6 leak_big 1003520\n"
             "leaked 1801 7 leak_by_alloca\n"
             "leaked 1901 1 leak_deep\n"
             "leaked 2003 9 leak_in_thread");
    }
    puts("done");
    wait_for_line();
    return 0;
}
