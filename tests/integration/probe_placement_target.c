// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Calls every allocation function that it can resolve, argv[1] times each. First it says "ready" on its output and
 * waits for a byte. Its own work before and after the calls allocates nothing.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define OPTIONAL __attribute__((weak))
extern int posix_memalign(void **, size_t, size_t) OPTIONAL;
extern void *memalign(size_t, size_t) OPTIONAL;
extern void *aligned_alloc(size_t, size_t) OPTIONAL;
extern void *valloc(size_t) OPTIONAL;
extern void *pvalloc(size_t) OPTIONAL;
/* C++: operator new, new[], new(nothrow), new(align_val_t), and their delete; sized delete */
extern void *_Znwm(size_t) OPTIONAL;
extern void *_Znam(size_t) OPTIONAL;
extern void *_ZnwmRKSt9nothrow_t(size_t, const void *) OPTIONAL;
extern void *_ZnwmSt11align_val_t(size_t, size_t) OPTIONAL;
extern void _ZdlPv(void *) OPTIONAL;
extern void _ZdaPv(void *) OPTIONAL;
extern void _ZdlPvm(void *, size_t) OPTIONAL;
extern void _ZdlPvSt11align_val_t(void *, size_t) OPTIONAL;
extern const char _ZSt7nothrow OPTIONAL;

static void allocate(size_t i) {
    void *block = malloc(100 + i);

    free(realloc(block, 300 + i));
    free(NULL);
    free(calloc(3, 1 + i));
    if (posix_memalign && posix_memalign(&block, 64, 200 + i) == 0)
        free(block);
    if (memalign)
        free(memalign(128, 200 + i));
    if (aligned_alloc)
        free(aligned_alloc(64, 64 * (1 + i)));
    if (valloc)
        free(valloc(10 + i));
    /* Not every allocator that replaces free has one of its own: the block is left alone. */
    if (pvalloc)
        block = pvalloc(10 + i);
    block = mmap(NULL, 4096 * (1 + i), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block != MAP_FAILED)
        munmap(block, 4096 * (1 + i));
    if (_Znwm) {
        _ZdlPv(_Znwm(20 + i));
        _ZdaPv(_Znam(20 + i));
        _ZdlPv(_ZnwmRKSt9nothrow_t(20 + i, &_ZSt7nothrow));
        _ZdlPvm(_Znwm(40 + i), 40 + i);
        _ZdlPvSt11align_val_t(_ZnwmSt11align_val_t(64 + i, 64), 64);
    }
}

int main(int argc, char **argv) {
    size_t calls = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    char go;

    if (write(STDOUT_FILENO, "ready\n", 6) != 6 || read(STDIN_FILENO, &go, 1) != 1)
        return 1;
    for (size_t i = 0; i < calls; i++)
        allocate(i);
    _exit(0);
}
