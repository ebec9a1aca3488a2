// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One of two plugins of memleak_reload, equal except for LEAK, the name of the leaking function. Has frame pointers.
#include <stdlib.h>

static void *volatile kept;

// Which of the two calls is made tells the stacks of different paths from each other.
__attribute__((noinline, noclone)) static void LEAK(long path, int depth, size_t size) {
    if (depth == 0) {
        kept = malloc(size);
    } else if (path & 1) {
        LEAK(path >> 1, depth - 1, size);
        __asm__ volatile("nop");
    } else {
        LEAK(path >> 1, depth - 1, size);
    }
    __asm__ volatile("");
}

void plugin_leak(long path, size_t size) {
    LEAK(path, 14, size);
    __asm__ volatile("");
}
