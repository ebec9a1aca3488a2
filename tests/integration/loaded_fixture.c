/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A library for tests to load. Each build has its own frame size in `pitfall_call`, and two sections of code. */
__attribute__((visibility("default"), noinline)) int pitfall_call(int (*function)(volatile char *)) {
    volatile char room[ROOM];
    return function(room) + 1;
}
__attribute__((visibility("default"), noinline, section("far_code"))) int
pitfall_far(int (*function)(volatile char *)) {
    volatile char room[2 * ROOM];
    return function(room) + 1;
}
