/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: what goes to the terminal */
#ifndef __DWUNW_OUTPUT_H
#define __DWUNW_OUTPUT_H

#include <stdio.h>

/*
 * Call it before anything is opened. If output to stdout cannot be written, stderr says so, at the latest at the end of
 * the program, and the exit status is 1.
 */
void dwunw_output__begin(void);

/* Writes all output out. 0, or a negative errno: some of it was lost. */
int dwunw_output__flush(void);

/* The target chooses its names, and may choose them to attack the terminal: both functions make them safe. */
void dwunw_output__text(FILE *file, const char *text);
char *dwunw_output__dup(const char *text); /* NULL: no memory */

#endif /* __DWUNW_OUTPUT_H */
/* dwunw-added: end */
