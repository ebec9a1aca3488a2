// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: what goes to the terminal */
#include "dwunw_output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dwunw/printable.h>

int dwunw_output__flush(void)
{
	static bool said;

	errno = 0;
	if (!fflush(stdout) && !ferror(stdout))
		return 0;
	if (!said)
		fprintf(stderr, "standard output: %s\n", strerror(errno ? errno : EIO));
	said = true;
	return -EIO;
}

static void at_exit(void)
{
	if (dwunw_output__flush())
		_exit(1);
}

void dwunw_output__begin(void)
{
	/* Otherwise the next opened file would get a closed stream's number, and the output. */
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", (fd == 1 ? O_RDONLY : O_RDWR) | O_CLOEXEC) < 0)
			perror("/dev/null");
	if (atexit(at_exit))
		fprintf(stderr, "standard output is not checked at the end\n");
}

char *dwunw_output__dup(const char *text)
{
	const size_t size = dwunw_printable(text, NULL, 0) + 1;
	char *shown = malloc(size);

	if (shown)
		dwunw_printable(text, shown, size);
	return shown;
}

void dwunw_output__text(FILE *file, const char *text)
{
	char shown[1024];
	char *whole;

	if (dwunw_printable(text, shown, sizeof(shown)) < sizeof(shown)) {
		fputs(shown, file);
		return;
	}
	whole = dwunw_output__dup(text);
	fputs(whole ? whole : shown, file);
	free(whole);
}
/* dwunw-added: end */
