// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: whether the process that is watched has ended */
#include "dwunw_target.h"

#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* False: there is no such process. A zombie whose other threads run has not ended. */
static bool read_stat(pid_t pid, unsigned long long *starttime)
{
	char path[64], line[1024];
	const char *after_name;
	long threads;
	FILE *file;
	char state;
	bool is;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	is = fgets(line, sizeof(line), file) != NULL;
	fclose(file);
	/* The process chooses its name: it may contain any byte. */
	after_name = is ? strrchr(line, ')') : NULL;
	if (!after_name || sscanf(after_name, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu",
				  &state, &threads, starttime) != 3)
		return false;
	return (state != 'Z' && state != 'X') || threads > 1;
}

void dwunw_target__open(struct dwunw_target *target, pid_t pid)
{
	*target = (struct dwunw_target){ .pid = pid, .fd = (int)syscall(SYS_pidfd_open, pid, 0) };
	if (target->fd < 0 && !read_stat(pid, &target->starttime))
		target->pid = 0;
}

void dwunw_target__close(struct dwunw_target *target)
{
	if (target->pid && target->fd >= 0)
		close(target->fd);
	target->pid = 0;
}

bool dwunw_target__has_ended(const struct dwunw_target *target)
{
	struct pollfd ended = { .fd = target->fd, .events = POLLIN };
	unsigned long long starttime;

	if (!target->pid)
		return false;
	if (target->fd >= 0)
		return poll(&ended, 1, 0) > 0;
	return !read_stat(target->pid, &starttime) || starttime != target->starttime;
}

void dwunw_target__wait(const struct dwunw_target *target, int timeout_ms)
{
	struct pollfd ended = { .fd = target->fd, .events = POLLIN };

	poll(&ended, target->pid && target->fd >= 0, timeout_ms);
}
/* dwunw-added: end */
