/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: whether the process that is watched has ended */
#ifndef __DWUNW_TARGET_H
#define __DWUNW_TARGET_H

#include <stdbool.h>
#include <sys/types.h>

/* A process by more than its number, which another one may get. */
struct dwunw_target {
	pid_t pid;		      /* 0: none is watched */
	int fd;			      /* a pidfd; −1: the kernel gives none, and `starttime` tells */
	unsigned long long starttime; /* as /proc/PID/stat has it */
};

/* A process that does not exist is none: who attaches to it says so. */
void dwunw_target__open(struct dwunw_target *target, pid_t pid);
void dwunw_target__close(struct dwunw_target *target);

/* All its threads have ended, whether it has been waited for or not. */
bool dwunw_target__has_ended(const struct dwunw_target *target);

/* Until it has ended, a signal comes, or `timeout_ms` is over. */
void dwunw_target__wait(const struct dwunw_target *target, int timeout_ms);

#endif /* __DWUNW_TARGET_H */
/* dwunw-added: end */
