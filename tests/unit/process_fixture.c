/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A plugin. Built several times with other values and other rules, but always with the same build-id. */
__attribute__((visibility("default"))) int plugin_value(void) { return PLUGIN_VALUE; }

__attribute__((visibility("default"), noinline)) int plugin_call(int (*function)(int *), int argument) {
    int room[PLUGIN_VALUE * 16];
    room[0] = argument;
    return function(room) + PLUGIN_VALUE;
}
