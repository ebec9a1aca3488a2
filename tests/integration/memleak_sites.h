/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* What the two halves of memleak_sites_target share. */
#ifndef MEMLEAK_SITES_H
#define MEMLEAK_SITES_H

#include <stddef.h>

#define SITE_STEP __attribute__((noinline, noclone))
/* Nothing that is behind a call may become a jump. */
#define SITE_STAY() __asm__ volatile("" ::: "memory")

/* Says that the site `name` has left a block, or a piece of a mapping, of `size` bytes. */
#ifdef __cplusplus
extern "C" {
#endif
void left(const char *name, void *block, size_t size);
/* All forms of operator new. */
void cxx_sites(void);
#ifdef __cplusplus
}
#endif

#endif
