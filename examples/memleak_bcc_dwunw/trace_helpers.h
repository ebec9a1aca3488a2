/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Names for addresses: of the kernel from /proc/kallsyms, of a process from the symbol tables of the files in its map.
 * Errors: NULL, with errno set.
 */
#ifndef __TRACE_HELPERS_H
#define __TRACE_HELPERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct ksym {
	const char *name;
	unsigned long addr;
};

struct ksyms;

struct ksyms *ksyms__load(void);
void ksyms__free(struct ksyms *ksyms);
/* The symbol that an address lies in; NULL: it lies before all symbols. */
const struct ksym *ksyms__map_addr(const struct ksyms *ksyms, unsigned long addr);

struct sym_info {
	const char *dso_name;
	const char *sym_name;	  /* NULL: the file has no symbol there */
	unsigned long sym_offset; /* of the address from the symbol's start */
};

struct syms;

/* Reads /proc/PID/maps once. Opens a file by path when an address first falls into it. */
struct syms *syms__load_pid(pid_t tgid);
void syms__free(struct syms *syms);
/* 0; -1: no file is mapped there. */
int syms__map_addr_dso(struct syms *syms, unsigned long addr, struct sym_info *sinfo);

struct syms_cache;

struct syms_cache *syms_cache__new(void);
void syms_cache__free(struct syms_cache *syms_cache);
/* The result of the first syms__load_pid for a process. */
struct syms *syms_cache__get_syms(struct syms_cache *syms_cache, pid_t tgid);

#endif /* __TRACE_HELPERS_H */
