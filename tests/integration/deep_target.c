// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* deep_target FRAMES: a thread that sleeps in a chain of FRAMES calls of one function. Says "ready" when it sleeps. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BYTES_A_CALL = 64 }; /* more than a call takes */

__attribute__((noipa)) static uintptr_t down(uintptr_t left) {
    if (left == 0) {
        puts("ready");
        fflush(stdout);
        pause();
        return 0;
    }
    return down(left - 1) + left; /* no tail call */
}

static void *run(void *calls) { return (void *)down((uintptr_t)calls); }

int main(int argc, char **argv) {
    const uintptr_t calls = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    pthread_attr_t attributes;
    pthread_t thread;

    if (calls == 0 || pthread_attr_init(&attributes) ||
        pthread_attr_setstacksize(&attributes, calls * BYTES_A_CALL + (1 << 20)) ||
        pthread_create(&thread, &attributes, run, (void *)calls)) {
        fputs("deep_target FRAMES\n", stderr);
        return 1;
    }
    pthread_join(thread, NULL);
    return 0;
}
