/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: whether the process that is watched has ended */
#ifndef __DWUNW_TARGET_H
#define __DWUNW_TARGET_H

#include <stdbool.h>
#include <sys/types.h>

/* A process, identified by more than its number, which another process may get. */
struct dwunw_target {
	pid_t pid;		      /* 0: no process is watched */
	int fd;			      /* a pidfd; −1: the kernel has none, and `starttime` identifies the process */
	unsigned long long starttime; /* as in /proc/PID/stat */
};

/* A process that does not exist counts as none; attaching to it gives the error. */
void dwunw_target__open(struct dwunw_target *target, pid_t pid);
void dwunw_target__close(struct dwunw_target *target);

/* Whether all its threads have ended, also if its parent has not waited for it. */
bool dwunw_target__has_ended(const struct dwunw_target *target);

/* Waits until it has ended, a signal comes, or `timeout_ms` is over. */
void dwunw_target__wait(const struct dwunw_target *target, int timeout_ms);

#endif /* __DWUNW_TARGET_H */
/* dwunw-added: end */
