/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Makes text that another program chose (symbols, paths, thread names) safe for a terminal and for a line of a report.
 * For example, an ESC byte becomes the four characters \x1b.
 *
 * Printable characters in valid UTF-8 pass unchanged, except that a backslash becomes two. Each byte of anything else
 * becomes \xNN: C0 and C1 controls and DEL, bidirectional controls, line and paragraph separators, other invisible
 * characters, and bytes that are not UTF-8. The original text can be recovered from the result.
 */
#ifndef DWUNW_PRINTABLE_H
#define DWUNW_PRINTABLE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * `text` ends with a NUL; NULL counts as empty. Like snprintf, the function writes at most `size` bytes to `out`,
 * including a final NUL, and returns the length of the whole result, which is at most four times the text's. A result
 * that does not fit is cut at the end, never inside an escape or a character. `out` may be NULL if `size` is 0.
 * Thread-safe; allocates nothing.
 */
size_t dwunw_printable(const char *text, char *out, size_t size);

#ifdef __cplusplus
}
#endif

#endif
