// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * One of many plugins; PLUGIN is its number. All have the same size and the same addresses, but their own names and
 * frames. So the rules of one give wrong frames in another.
 */
#define PASTE(a, b, c) a##b##c
#define NAMED(number, name) PASTE(plugin_, number, name)

typedef void (*then_fn)(unsigned long number);

__attribute__((noinline, noclone)) static void NAMED(PLUGIN, _inner)(unsigned long number, then_fn then) {
    volatile unsigned long room[3 + 2 * PLUGIN];

    room[0] = number;
    then(number);
    room[1] = room[0];
}

__attribute__((visibility("default"))) void plugin_run(unsigned long number, then_fn then);

__attribute__((noinline, noclone)) static void NAMED(PLUGIN, _outer)(unsigned long number, then_fn then) {
    volatile unsigned long room[5 + 4 * PLUGIN];

    room[0] = number;
    NAMED(PLUGIN, _inner)(number, then);
    room[1] = room[0];
}

void plugin_run(unsigned long number, then_fn then) {
    NAMED(PLUGIN, _outer)(number, then);
    __asm__ volatile("" ::: "memory");
}
