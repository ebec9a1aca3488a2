/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: memleak's probes where they cost least */
/*
 * Attaches the probe points of attach_uprobes in the kernel's cheapest form: all by one link if it has uprobe sessions,
 * each on the function's first instruction that needs no single step.
 */
#ifndef __DWUNW_PROBES_H
#define __DWUNW_PROBES_H

#include <stdbool.h>
#include <stddef.h>

struct bpf_object;
struct dwunw_probes;

/* The path at which libbpf's uprobes find a library or program without a folder. False, with errno: they do not. */
bool dwunw_probes__find_binary(const char *binary, char *path, size_t size);

/*
 * Call it before the load: it chooses the programs to load. `use`: those of dwunw_probes.bpf.h instead of NAME_enter
 * and NAME_exit. `returns`: an enum dwunw_attach_returns.
 */
int dwunw_probes__prepare(struct dwunw_probes **probes, struct bpf_object *object, bool use, unsigned int returns,
			  bool verbose);
/* Whether returns are seen at return instructions; the programs need to know. */
bool dwunw_probes__by_instruction(const struct dwunw_probes *probes);

/* Call it after the load. 0, or a negative errno after a message, as in attach_uprobes. */
int dwunw_probes__attach(struct dwunw_probes *probes, const char *binary, const char *prefix, int pid, bool at_entry);
void dwunw_probes__free(struct dwunw_probes *probes);

#endif /* __DWUNW_PROBES_H */
/* dwunw-added: end */
