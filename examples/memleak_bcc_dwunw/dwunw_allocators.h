/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: whether there is anything to see in the process */
#ifndef __DWUNW_ALLOCATORS_H
#define __DWUNW_ALLOCATORS_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Says on stderr if the process does not map `object`, the file with the probed functions, and which allocators it has
 * instead. With `others`, also names further allocators. Says nothing if `object` is not found or the process has
 * ended.
 */
void dwunw_allocators__check(pid_t pid, const char *object, bool others);

#endif /* __DWUNW_ALLOCATORS_H */
/* dwunw-added: end */
