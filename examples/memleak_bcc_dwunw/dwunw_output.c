// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: what goes to the terminal */
#include "dwunw_output.h"

#include <stdlib.h>

#include <dwunw/printable.h>

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
