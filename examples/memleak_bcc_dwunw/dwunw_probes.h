/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: memleak's probes where they cost least */
/*
 * The probe points of attach_uprobes, attached as the kernel can do it best: all by one link where it has
 * uprobe sessions, each on the function's first instruction that needs no single step.
 */
#ifndef __DWUNW_PROBES_H
#define __DWUNW_PROBES_H

#include <stdbool.h>
#include <stddef.h>

struct bpf_object;
struct dwunw_probes;

/* Where libbpf's uprobes look for a library or program that is given without a folder. False, with errno: nowhere. */
bool dwunw_probes__find_binary(const char *binary, char *path, size_t size);

/*
 * Before the load: which programs are loaded. `use`: those of dwunw_probes.bpf.h in place of NAME_enter and NAME_exit.
 * `returns`: an enum dwunw_attach_returns.
 */
int dwunw_probes__prepare(struct dwunw_probes **probes, struct bpf_object *object, bool use, unsigned int returns,
			  bool verbose);
/* Whether returns are seen at return instructions: the programs have to know. */
bool dwunw_probes__by_instruction(const struct dwunw_probes *probes);

/* Behind it. 0, or a negative errno after saying what failed, as attach_uprobes does. */
int dwunw_probes__attach(struct dwunw_probes *probes, const char *binary, const char *prefix, int pid, bool at_entry);
void dwunw_probes__free(struct dwunw_probes *probes);

#endif /* __DWUNW_PROBES_H */
/* dwunw-added: end */
