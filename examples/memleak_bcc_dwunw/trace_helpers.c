// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * The limits are those that memleak's users know (README, "Limits it inherits"): the map is read only once, files are
 * opened in the tool's own mount namespace, and separate debug files are not used.
 */
#include "trace_helpers.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "dwunw_output.h" /* dwunw-added: names may be made for the terminal */

/* Makes room for one more element of a growing array. */
static void *array_grow(void *array, size_t count, size_t *capacity, size_t element)
{
	void *grown;

	if (count < *capacity)
		return array;
	*capacity = *capacity ? *capacity * 2 : 64;
	grown = reallocarray(array, *capacity, element);
	if (!grown)
		free(array);
	return grown;
}

struct ksyms {
	struct ksym *syms;
	size_t count;
	size_t capacity;
};

static int ksym_cmp(const void *p1, const void *p2)
{
	const struct ksym *s1 = p1, *s2 = p2;

	return (s1->addr > s2->addr) - (s1->addr < s2->addr);
}

struct ksyms *ksyms__load(void)
{
	struct ksyms *ksyms = calloc(1, sizeof(*ksyms));
	char *line = NULL;
	size_t line_size = 0;
	FILE *f;

	if (!ksyms)
		return NULL;
	f = fopen("/proc/kallsyms", "re");
	if (!f)
		goto err_out;

	while (getline(&line, &line_size, f) > 0) {
		unsigned long addr;
		char type, name[512];

		if (sscanf(line, "%lx %c %511s", &addr, &type, name) != 3)
			continue;
		ksyms->syms = array_grow(ksyms->syms, ksyms->count, &ksyms->capacity, sizeof(*ksyms->syms));
		if (!ksyms->syms)
			goto err_out;
		ksyms->syms[ksyms->count].addr = addr;
		ksyms->syms[ksyms->count].name = dwunw_output__dup(name); // dwunw-added: may be made for the terminal; plain: ksyms->syms[ksyms->count].name = strdup(name);
		if (!ksyms->syms[ksyms->count].name)
			goto err_out;
		ksyms->count++;
	}
	free(line);
	fclose(f);
	if (ksyms->count)
		qsort(ksyms->syms, ksyms->count, sizeof(*ksyms->syms), ksym_cmp);
	return ksyms;

err_out:
	free(line);
	if (f)
		fclose(f);
	ksyms__free(ksyms);
	return NULL;
}

void ksyms__free(struct ksyms *ksyms)
{
	if (!ksyms)
		return;
	for (size_t i = 0; ksyms->syms && i < ksyms->count; i++)
		free((char *)ksyms->syms[i].name);
	free(ksyms->syms);
	free(ksyms);
}

const struct ksym *ksyms__map_addr(const struct ksyms *ksyms, unsigned long addr)
{
	size_t low = 0, high = ksyms->count;

	while (low < high) {
		const size_t mid = low + (high - low) / 2;

		if (ksyms->syms[mid].addr <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low ? &ksyms->syms[low - 1] : NULL;
}

struct sym {
	char *name;
	unsigned long start; /* as in the file */
	unsigned long size;
};

struct dso {
	char *name;
	char *shown; /* dwunw-added: the name, fit for the terminal */
	bool loaded;
	bool relocatable; /* ET_DYN: addresses are relative to its load address */
	unsigned long text_addr_minus_offset;
	struct sym *syms;
	size_t count;
	size_t capacity;
};

struct range {
	unsigned long start;
	unsigned long end;
	unsigned long file_offset;
	struct dso *dso;
};

struct syms {
	struct range *ranges;
	size_t range_count;
	size_t range_capacity;
	struct dso **dsos;
	size_t dso_count;
	size_t dso_capacity;
};

static int sym_cmp(const void *p1, const void *p2)
{
	const struct sym *s1 = p1, *s2 = p2;

	return (s1->start > s2->start) - (s1->start < s2->start);
}

static int dso__add_symtab(struct dso *dso, Elf *e, Elf_Scn *scn, const GElf_Shdr *shdr)
{
	Elf_Data *data = elf_getdata(scn, NULL);
	GElf_Sym sym;

	if (!data || !shdr->sh_entsize)
		return 0;
	for (size_t i = 0; i < shdr->sh_size / shdr->sh_entsize; i++) {
		const char *name;

		if (!gelf_getsym(data, (int)i, &sym) || GELF_ST_TYPE(sym.st_info) != STT_FUNC || !sym.st_size)
			continue;
		name = elf_strptr(e, shdr->sh_link, sym.st_name);
		if (!name)
			continue;
		dso->syms = array_grow(dso->syms, dso->count, &dso->capacity, sizeof(*dso->syms));
		if (!dso->syms) {
			dso->count = 0;
			return -1;
		}
		dso->syms[dso->count].start = sym.st_value;
		dso->syms[dso->count].size = sym.st_size;
		dso->syms[dso->count].name = dwunw_output__dup(name); // dwunw-added: may be made for the terminal; plain: dso->syms[dso->count].name = strdup(name);
		if (!dso->syms[dso->count].name)
			return -1;
		dso->count++;
	}
	return 0;
}

/* ELF_C_READ: read, not mapped, so that a file that shrinks meanwhile is an error and not a SIGBUS. */
static int dso__load_sym_table(struct dso *dso)
{
	const int fd = open(dso->name, O_RDONLY | O_CLOEXEC);
	Elf_Scn *scn = NULL;
	GElf_Ehdr ehdr;
	GElf_Shdr shdr;
	size_t names;
	int err = -1;
	Elf *e = NULL;

	dso->loaded = true;
	if (fd < 0)
		return -1;
	e = elf_begin(fd, ELF_C_READ, NULL);
	if (!e || !gelf_getehdr(e, &ehdr) || elf_getshdrstrndx(e, &names))
		goto out;
	dso->relocatable = ehdr.e_type == ET_DYN;
	while ((scn = elf_nextscn(e, scn))) {
		const char *name;

		if (!gelf_getshdr(scn, &shdr))
			continue;
		name = elf_strptr(e, names, shdr.sh_name);
		if (name && !strcmp(name, ".text"))
			dso->text_addr_minus_offset = shdr.sh_addr - shdr.sh_offset;
		if ((shdr.sh_type == SHT_SYMTAB || shdr.sh_type == SHT_DYNSYM) && dso__add_symtab(dso, e, scn, &shdr))
			goto out;
	}
	if (dso->count)
		qsort(dso->syms, dso->count, sizeof(*dso->syms), sym_cmp);
	err = 0;
out:
	elf_end(e);
	close(fd);
	return err;
}

static const struct sym *dso__find_sym(struct dso *dso, unsigned long addr)
{
	size_t low = 0, high;

	if (!dso->loaded && dso__load_sym_table(dso))
		return NULL;
	high = dso->count;
	while (low < high) {
		const size_t mid = low + (high - low) / 2;

		if (dso->syms[mid].start <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low || addr - dso->syms[low - 1].start >= dso->syms[low - 1].size)
		return NULL;
	return &dso->syms[low - 1];
}

static struct dso *syms__find_or_add_dso(struct syms *syms, const char *name)
{
	struct dso *dso;

	for (size_t i = 0; i < syms->dso_count; i++)
		if (!strcmp(syms->dsos[i]->name, name))
			return syms->dsos[i];

	syms->dsos = array_grow(syms->dsos, syms->dso_count, &syms->dso_capacity, sizeof(*syms->dsos));
	if (!syms->dsos) {
		syms->dso_count = 0;
		return NULL;
	}
	dso = calloc(1, sizeof(*dso));
	if (!dso)
		return NULL;
	dso->name = strdup(name);
	dso->shown = dwunw_output__dup(name); /* dwunw-added: the name, fit for the terminal */
	if (!dso->name || !dso->shown) {      // dwunw-added: both names; plain: if (!dso->name) {
		free(dso->name);	      /* dwunw-added: either may be there */
		free(dso->shown);	      /* dwunw-added: either may be there */
		free(dso);
		return NULL;
	}
	syms->dsos[syms->dso_count++] = dso;
	return dso;
}

static int syms__add_range(struct syms *syms, const struct range *range)
{
	syms->ranges = array_grow(syms->ranges, syms->range_count, &syms->range_capacity, sizeof(*syms->ranges));
	if (!syms->ranges) {
		syms->range_count = 0;
		return -1;
	}
	syms->ranges[syms->range_count++] = *range;
	return 0;
}

struct syms *syms__load_pid(pid_t tgid)
{
	struct syms *syms;
	char *line = NULL;
	size_t line_size = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", tgid);
	f = fopen(path, "re");
	if (!f)
		return NULL;
	syms = calloc(1, sizeof(*syms));
	if (!syms)
		goto err_out;

	elf_version(EV_CURRENT);
	while (getline(&line, &line_size, f) > 0) {
		struct range range;
		int name = 0;

		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "%lx-%lx %*2[r-w-]x%*c %lx %*s %*s %n", &range.start, &range.end, &range.file_offset,
			   &name) != 3 ||
		    !name || line[name] != '/')
			continue;
		range.dso = syms__find_or_add_dso(syms, line + name);
		if (!range.dso || syms__add_range(syms, &range))
			goto err_out;
	}
	if (!syms->range_count) {
		/* gone: a zombie's map reads as empty */
		errno = ESRCH;
		goto err_out;
	}
	free(line);
	fclose(f);
	return syms;

err_out:
	free(line);
	fclose(f);
	syms__free(syms);
	return NULL;
}

void syms__free(struct syms *syms)
{
	if (!syms)
		return;
	for (size_t i = 0; i < syms->dso_count; i++) {
		struct dso *dso = syms->dsos[i];

		for (size_t j = 0; j < dso->count; j++)
			free(dso->syms[j].name);
		free(dso->syms);
		free(dso->name);
		free(dso->shown); /* dwunw-added: the name, fit for the terminal */
		free(dso);
	}
	free(syms->dsos);
	free(syms->ranges);
	free(syms);
}

int syms__map_addr_dso(struct syms *syms, unsigned long addr, struct sym_info *sinfo)
{
	for (size_t i = 0; i < syms->range_count; i++) {
		const struct range *range = &syms->ranges[i];
		const struct sym *sym;
		unsigned long offset;

		if (addr < range->start || addr >= range->end)
			continue;
		if (!range->dso->loaded)
			dso__load_sym_table(range->dso);
		offset = addr;
		if (range->dso->relocatable)
			offset = addr - range->start + range->file_offset + range->dso->text_addr_minus_offset;
		sym = dso__find_sym(range->dso, offset);
		sinfo->dso_name = range->dso->shown; // dwunw-added: may be made for the terminal; plain: sinfo->dso_name = range->dso->name;
		sinfo->sym_name = sym ? sym->name : NULL;
		sinfo->sym_offset = sym ? offset - sym->start : 0;
		return 0;
	}
	return -1;
}

struct syms_cache {
	struct {
		struct syms *syms;
		pid_t tgid;
	} * data;
	size_t count;
	size_t capacity;
};

struct syms_cache *syms_cache__new(void)
{
	return calloc(1, sizeof(struct syms_cache));
}

void syms_cache__free(struct syms_cache *syms_cache)
{
	if (!syms_cache)
		return;
	for (size_t i = 0; i < syms_cache->count; i++)
		syms__free(syms_cache->data[i].syms);
	free(syms_cache->data);
	free(syms_cache);
}

struct syms *syms_cache__get_syms(struct syms_cache *syms_cache, pid_t tgid)
{
	for (size_t i = 0; i < syms_cache->count; i++)
		if (syms_cache->data[i].tgid == tgid)
			return syms_cache->data[i].syms;

	syms_cache->data = array_grow(syms_cache->data, syms_cache->count, &syms_cache->capacity,
				      sizeof(*syms_cache->data));
	if (!syms_cache->data) {
		syms_cache->count = 0;
		return NULL;
	}
	syms_cache->data[syms_cache->count].tgid = tgid;
	syms_cache->data[syms_cache->count].syms = syms__load_pid(tgid);
	if (!syms_cache->data[syms_cache->count].syms)
		return NULL;
	return syms_cache->data[syms_cache->count++].syms;
}
