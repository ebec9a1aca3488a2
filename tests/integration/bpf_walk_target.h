// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* What the files of bpf_walk_target share: a stack of many shapes that ends in a call of probe_here(). */
#ifndef BPF_WALK_TARGET_H
#define BPF_WALK_TARGET_H

#include <stdbool.h>

#define SHAPE __attribute__((noinline, noclone))
/* Nothing that is behind a call may become a jump. */
#define STAY() __asm__ volatile("" ::: "memory")

/* Hidden: a call does not go by way of the PLT, because the program exports its symbols. */
#pragma GCC visibility push(hidden)

/* Whether call() prints what libgcc finds, and the plugin that it names. */
extern bool tell;
extern const char *plugin_name;

/* probe_here(number), from one frame, or from one under `levels` others. */
void call(unsigned long number);
void descend(unsigned long number, unsigned levels);

/* Subjects in which the map changes, or code has no file: bpf_walk_target_maps.c. */
void do_storm(char **argument);
void do_stays(char **argument);
void do_exec(char **argument);
void do_fork(char **argument);
void do_jit(char **argument);
void do_blob(char **argument);
void do_moved(char **argument);

#pragma GCC visibility pop

#endif
