// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * One of two plugins with the same size and the same addresses, but other frames. PLUGIN_WORDS sets the size of a
 * frame.
 */
typedef void (*then_fn)(unsigned long number);

__attribute__((noinline, noclone)) static void plugin_inner(unsigned long number, then_fn then) {
    volatile unsigned long room[PLUGIN_WORDS];

    room[0] = number;
    then(number);
    room[1] = room[0];
}

__attribute__((visibility("default"))) void plugin_run(unsigned long number, then_fn then) {
    volatile unsigned long room[PLUGIN_WORDS * 2];

    room[0] = number;
    plugin_inner(number, then);
    room[1] = room[0];
}
