// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: whether there is anything to see in the process */
#include "dwunw_allocators.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <dwunw/probe_placement.h>

#include "dwunw_output.h"
#include "dwunw_probes.h"

/* Names of the files of allocators. */
static const char *const libraries[] = {
	"libc.so",
	"libc-2.",
	"ld-musl-",
	"libc.musl-",
	"libjemalloc",
	"libtcmalloc",
	"libmimalloc",
	"libsnmalloc",
	"libhoard",
};

/* Names of allocators inside the program. */
static const char *const symbols[] = {
	"malloc",
	"je_malloc",
	"_rjem_malloc",
	"tc_malloc",
	"mi_malloc",
	"runtime.mallocgc",
	"__rdl_alloc",
};

#define SYMBOLS (sizeof(symbols) / sizeof(symbols[0]))
#define SEEN_MAX 8

struct seen {
	bool anything; /* the map could be read */
	bool object;   /* the object is mapped */
	char *libraries[SEEN_MAX];
	size_t library_count;
};

static bool is_library(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++)
		if (!strncmp(name, libraries[i], strlen(libraries[i])))
			return true;
	return false;
}

/*
 * Whether a mapping is of the object. With layered file systems (overlayfs, btrfs) the numbers in a map are those of
 * another file system. So this follows the mapping; it uses the numbers only without the privilege to follow it.
 */
static bool is_object(pid_t pid, const char *range, dev_t device, unsigned long inode, const struct stat *object)
{
	char path[128];
	struct stat mapped;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%s", pid, range);
	if (!stat(path, &mapped))
		return mapped.st_dev == object->st_dev && mapped.st_ino == object->st_ino;
	return device == object->st_dev && inode == object->st_ino;
}

static void note_library(struct seen *seen, const char *path)
{
	for (size_t i = 0; i < seen->library_count; i++)
		if (!strcmp(seen->libraries[i], path))
			return;
	if (seen->library_count < SEEN_MAX && (seen->libraries[seen->library_count] = strdup(path)))
		seen->library_count++;
}

static void look(struct seen *seen, pid_t pid, const struct stat *object)
{
	char path[64], *line = NULL;
	size_t size = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return;
	while (getline(&line, &size, maps) > 0) {
		char range[64], permissions[8];
		unsigned int device_major, device_minor;
		unsigned long inode;
		int name = 0;

		line[strcspn(line, "\n")] = '\0';
		seen->anything = true;
		if (sscanf(line, "%63s %7s %*s %x:%x %lu %n", range, permissions, &device_major, &device_minor, &inode, &name) !=
			    5 ||
		    !strchr(permissions, 'x') || line[name] != '/')
			continue;
		if (is_object(pid, range, makedev(device_major, device_minor), inode, object))
			seen->object = true;
		else if (is_library(line + name))
			note_library(seen, line + name);
	}
	free(line);
	fclose(maps);
}

static bool has_symbol(const struct dwunw_probe_file *file, const char *symbol)
{
	const struct dwunw_probe_options options = { .size = sizeof(options), .flags = DWUNW_PROBE_AT_ENTRY };
	struct dwunw_probe_placement placement = { .size = sizeof(placement) };

	return dwunw_probe_place_symbol(file, symbol, &options, &placement) == DWUNW_OK;
}

static bool is_32_bit(const char *path)
{
	unsigned char ident[EI_NIDENT];
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	const bool is = fd >= 0 && read(fd, ident, sizeof(ident)) == sizeof(ident) && ident[EI_CLASS] == ELFCLASS32;

	if (fd >= 0)
		close(fd);
	return is;
}

void dwunw_allocators__check(pid_t pid, const char *object, bool others)
{
	char path[PATH_MAX], exe[64], program[PATH_MAX];
	struct dwunw_probe_file *file = NULL;
	const char *separator = ": it has ";
	struct seen seen = {};
	struct stat status, exe_status;
	bool is_program, has[SYMBOLS] = {};
	ssize_t length;
	size_t found;

	if (!dwunw_probes__find_binary(object, path, sizeof(path)) || stat(path, &status))
		return;
	look(&seen, pid, &status);
	snprintf(exe, sizeof(exe), "/proc/%d/exe", pid);
	length = readlink(exe, program, sizeof(program) - 1);
	program[length < 0 ? 0 : length] = '\0';
	is_program = !stat(exe, &exe_status) && exe_status.st_dev == status.st_dev && exe_status.st_ino == status.st_ino;
	if (length > 0 && !is_program)
		dwunw_probe_file_open(exe, &file);
	found = seen.library_count;
	for (size_t i = 0; file && i < SYMBOLS; i++)
		found += has[i] = has_symbol(file, symbols[i]);
	if (!seen.anything || (seen.object && !(others && found)))
		goto out;
	if (seen.object) {
		fprintf(stderr, "WARNING: process %d may not allocate with ", pid);
		dwunw_output__text(stderr, path);
		fprintf(stderr, ", which is watched");
	} else {
		fprintf(stderr, "WARNING: process %d does not map ", pid);
		dwunw_output__text(stderr, path);
		fprintf(stderr, ", so none of its functions will be seen");
	}
	for (size_t i = 0; i < seen.library_count; i++) {
		fprintf(stderr, "%s", separator);
		dwunw_output__text(stderr, seen.libraries[i]);
		separator = ", ";
	}
	for (size_t i = 0; i < SYMBOLS; i++) {
		if (!has[i])
			continue;
		fprintf(stderr, "%s%s in its program ", separator, symbols[i]);
		dwunw_output__text(stderr, program);
		separator = ", ";
	}
	if (!found)
		fprintf(stderr, "; it has no allocator that memleak knows");
	if (is_32_bit(exe))
		fprintf(stderr, "; it is a 32-bit program");
	fprintf(stderr, "\n");
out:
	dwunw_probe_file_close(file);
	for (size_t i = 0; i < seen.library_count; i++)
		free(seen.libraries[i]);
}
/* dwunw-added: end */
