/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: what goes to the terminal */
#ifndef __DWUNW_OUTPUT_H
#define __DWUNW_OUTPUT_H

#include <stdio.h>

/*
 * To be called before anything is opened. What is printed to stdout and cannot be written is said on stderr, at the end of
 * the program at the latest, and then the exit status is 1.
 */
void dwunw_output__begin(void);

/* Writes out what was printed: 0, or a negative errno if any of it was lost. */
int dwunw_output__flush(void);

/* A name is the target's own choice, and may be made for the terminal: both make it fit to be shown. */
void dwunw_output__text(FILE *file, const char *text);
char *dwunw_output__dup(const char *text); /* NULL: no memory */

#endif /* __DWUNW_OUTPUT_H */
/* dwunw-added: end */
