/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: what goes to the terminal */
#ifndef __DWUNW_OUTPUT_H
#define __DWUNW_OUTPUT_H

#include <stdio.h>

/* A name is the target's own choice, and may be made for the terminal: both make it fit to be shown. */
void dwunw_output__text(FILE *file, const char *text);
char *dwunw_output__dup(const char *text); /* NULL: no memory */

#endif /* __DWUNW_OUTPUT_H */
/* dwunw-added: end */
