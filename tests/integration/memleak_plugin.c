// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One of two plugins of memleak_reload, alike but for LEAK, the name of what leaks. Built with frame pointers and
// without CFI.
#include <stdlib.h>

static void *volatile kept;

__attribute__((noinline, noclone)) static void LEAK(int depth, size_t size) {
    if (depth > 0)
        LEAK(depth - 1, size);
    else
        kept = malloc(size);
    __asm__ volatile("");
}

void plugin_leak(int depth, size_t size) {
    LEAK(depth, size);
    __asm__ volatile("");
}
