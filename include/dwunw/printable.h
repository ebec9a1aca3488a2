/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Text that another program chose (symbols, paths, names of threads), made fit for a terminal and a line of a report.
 *
 * Printable ASCII but the backslash passes, and so do the other printable characters in valid UTF-8. A backslash
 * becomes two. Each byte of anything else becomes \xNN: C0 and C1 controls and DEL, bidirectional controls, line and
 * paragraph separators and other invisible characters, and bytes that are no UTF-8. So the text can be had back from
 * the result.
 */
#ifndef DWUNW_PRINTABLE_H
#define DWUNW_PRINTABLE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * `text` ends with a NUL; NULL is an empty one. As snprintf does, it writes at most `size` bytes to `out`, a NUL last,
 * and returns the length that the whole result has, at most four times the text's. What does not fit is left out at the
 * end; no escape and no character is cut. `out` may be NULL if `size` is 0. Thread-safe; allocates nothing.
 */
size_t dwunw_printable(const char *text, char *out, size_t size);

#ifdef __cplusplus
}
#endif

#endif
