// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: memleak's probes where they cost least */
#include "dwunw_probes.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <dwunw/bpf_attach.h>
#include <dwunw/probe_placement.h>

#include "memleak_dwunw.h"

#if DWUNW_RESULT_IN_PARM1 != DWUNW_ATTACH_COOKIE_RESULT_IN_RDI
#error "the kernel half looks for another bit"
#endif

struct function {
	const char *name;
	enum dwunw_function number;
	unsigned int arguments; /* the number that the probe reads */
	bool returns;		/* its return is probed, too */
	bool required;
	bool required_without_prefix;
};

/* In the order of attach_uprobes; the same functions must exist. */
static const struct function functions[] = {
	{ "malloc", DWUNW_MALLOC, 1, true, true, true },
	{ "calloc", DWUNW_CALLOC, 2, true, true, true },
	{ "realloc", DWUNW_REALLOC, 2, true, true, true },
	{ "mmap", DWUNW_MMAP, 2, true, false, true },
	{ "mremap", DWUNW_MREMAP, 3, true, false, true },
	{ "posix_memalign", DWUNW_POSIX_MEMALIGN, 3, true, true, true },
	{ "memalign", DWUNW_MEMALIGN, 2, true, true, true },
	{ "free", DWUNW_FREE, 1, false, true, true },
	{ "munmap", DWUNW_MUNMAP, 1, false, false, true },
	{ "valloc", DWUNW_VALLOC, 1, true, false, false },
	{ "pvalloc", DWUNW_PVALLOC, 1, true, false, false },
	{ "aligned_alloc", DWUNW_ALIGNED_ALLOC, 2, true, false, false },
	/* These leave an allocator's call without a return; their other names are aliases. */
	{ "longjmp", DWUNW_LONGJMP, 1, false, false, false },
	{ "__longjmp_chk", DWUNW_LONGJMP, 1, false, false, false },
};
#define FUNCTIONS (sizeof(functions) / sizeof(functions[0]))

struct dwunw_probes {
	bool verbose;
	struct dwunw_attach_programs programs;
	struct dwunw_attach_plan plan;
	struct dwunw_attachment *attachment;
};

static void set_autoload(struct bpf_object *object, const char *name, bool load)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, name);

	if (program)
		bpf_program__set_autoload(program, load);
}

/* Return probes that no session can refuse: dwunw/bpf_attach.h says what they can do to the program. */
static void warn_of_return_probes(void)
{
	fprintf(stderr, "WARNING: this kernel's return probes can end the traced program, if a signal handler on an "
			"alternate stack allocates during an allocation. --dwunw-returns=instruction avoids this.\n");
}

int dwunw_probes__prepare(struct dwunw_probes **out, struct bpf_object *object, bool use, unsigned int returns,
			  bool verbose)
{
	struct dwunw_probes *probes = calloc(1, sizeof(*probes));

	if (!probes) {
		perror("failed to allocate probes");
		return -ENOMEM;
	}
	probes->verbose = verbose;
	probes->programs = (struct dwunw_attach_programs){
		.size = sizeof(probes->programs),
		.session = bpf_object__find_program_by_name(object, "dwunw_session"),
		.entry = bpf_object__find_program_by_name(object, "dwunw_entry"),
		.exit = bpf_object__find_program_by_name(object, "dwunw_exit"),
		.returns = returns,
	};
	probes->plan.size = sizeof(probes->plan);
	if (use) {
		const dwunw_status status = dwunw_attach_prepare(&probes->programs, &probes->plan);

		if (status != DWUNW_OK) {
			fprintf(stderr, "failed to prepare probes: %s\n", dwunw_status_string(status));
			free(probes);
			return -EINVAL;
		}
		if (verbose)
			fprintf(stderr, "probes: %s\n", probes->plan.reason);
		if (probes->plan.form != DWUNW_ATTACH_SESSION && probes->plan.returns == DWUNW_ATTACH_RETURN_PROBES)
			warn_of_return_probes();
	} else {
		set_autoload(object, "dwunw_session", false);
		set_autoload(object, "dwunw_entry", false);
		set_autoload(object, "dwunw_on_new_image", false);
	}
	if (!use || probes->plan.form == DWUNW_ATTACH_SESSION)
		set_autoload(object, "dwunw_exit", false);
	for (size_t i = 0; use && i < FUNCTIONS; i++) {
		char name[64];

		snprintf(name, sizeof(name), "%s_enter", functions[i].name);
		set_autoload(object, name, false);
		snprintf(name, sizeof(name), "%s_exit", functions[i].name);
		set_autoload(object, name, false);
	}
	*out = probes;
	return 0;
}

bool dwunw_probes__by_instruction(const struct dwunw_probes *probes)
{
	return probes->plan.returns == DWUNW_ATTACH_RETURN_INSTRUCTIONS;
}

/* Whether the returns of a function with a probe at `offset` can be seen; if not, `why` says why. */
static bool sees_returns(const struct dwunw_probes *probes, const struct dwunw_probe_file *file, __u64 offset,
			 char *why, size_t size)
{
	size_t count;

	return !dwunw_probes__by_instruction(probes) ||
	       dwunw_probe_find_returns(file, offset, NULL, 0, &count, why, size) == DWUNW_OK;
}

bool dwunw_probes__find_binary(const char *binary, char *path, size_t size)
{
	const bool is_library = strstr(binary, ".so") != NULL;
	const char *variable = getenv(is_library ? "LD_LIBRARY_PATH" : "PATH");
	const char *const lists[] = {
		variable ? variable : "",
		is_library ? "/usr/lib64:/usr/lib:/lib64:/lib:/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu"
			   : "/usr/bin:/usr/sbin:/bin:/sbin",
	};

	if (strchr(binary, '/'))
		return snprintf(path, size, "%s", binary) < (int)size && access(path, R_OK) == 0;
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const char *folder = lists[i]; *folder;) {
			const size_t length = strcspn(folder, ":");

			if (length && snprintf(path, size, "%.*s/%s", (int)length, folder, binary) < (int)size &&
			    access(path, is_library ? R_OK : R_OK | X_OK) == 0)
				return true;
			folder += length + (folder[length] == ':');
		}
	}
	errno = ENOENT;
	return false;
}

static int missing(const struct function *function, const char *why)
{
	fprintf(stderr, "no program attached for %s_enter: %s\n", function->name, why);
	return -ENOENT;
}

static int place_all(const struct dwunw_probes *probes, const struct dwunw_probe_file *file, const char *prefix,
		     bool at_entry, struct dwunw_attach_point *points, size_t *count)
{
	for (size_t i = 0; i < FUNCTIONS; i++) {
		const struct function *function = &functions[i];
		const struct dwunw_probe_options options = {
			.size = sizeof(options),
			.flags = at_entry ? DWUNW_PROBE_AT_ENTRY : DWUNW_PROBE_SKIP_MODULE_READS,
			.arguments = function->arguments,
		};
		struct dwunw_probe_placement placement = { .size = sizeof(placement) };
		char symbol[64], why[256];
		dwunw_status status;

		snprintf(symbol, sizeof(symbol), "%s%s", prefix, function->name);
		status = dwunw_probe_place_symbol(file, symbol, &options, &placement);
		if (status != DWUNW_OK) {
			if (prefix[0] ? function->required : function->required_without_prefix)
				return missing(function, status == DWUNW_ERR_NOT_FOUND ? strerror(ENOENT) : dwunw_status_string(status));
			continue;
		}
		if (function->returns && !sees_returns(probes, file, placement.file_offset, why, sizeof(why))) {
			fprintf(stderr, "the returns of %s are not known: %s; --dwunw-returns=probe does not need them\n", symbol,
				why);
			if (prefix[0] ? function->required : function->required_without_prefix)
				return -ENOTSUP;
			continue;
		}
		if (probes->verbose)
			fprintf(stderr, "probe: %s: %s\n", symbol, placement.reason);
		points[*count] = (struct dwunw_attach_point){
			.file_offset = placement.file_offset,
			.cookie = function->number,
			.when = DWUNW_ATTACH_AT_ENTRY | (function->returns ? DWUNW_ATTACH_AT_RETURN : 0),
		};
		/* A function with two names (an alias) is probed once. */
		for (size_t other = 0; other <= *count; other++) {
			if (other == *count) {
				++*count;
				break;
			}
			if (points[other].file_offset == points[*count].file_offset)
				break;
		}
	}
	return 0;
}

int dwunw_probes__attach(struct dwunw_probes *probes, const char *binary, const char *prefix, int pid, bool at_entry)
{
	struct dwunw_attach_point points[FUNCTIONS];
	struct dwunw_attach_request request = {
		.size = sizeof(request),
		.pid = pid,
		.points = points,
	};
	struct dwunw_probe_file *file;
	char path[PATH_MAX];
	dwunw_status status;
	int err;

	if (!dwunw_probes__find_binary(binary, path, sizeof(path)))
		return missing(&functions[0], strerror(errno));
	status = dwunw_probe_file_open(path, &file);
	if (status != DWUNW_OK)
		return missing(&functions[0], dwunw_status_string(status));
	err = place_all(probes, file, prefix, at_entry, points, &request.count);
	dwunw_probe_file_close(file);
	if (err)
		return err;
	request.path = path;
	status = dwunw_attach(&probes->programs, &probes->plan, &request, &probes->attachment);
	if (status == DWUNW_OK)
		return 0;
	err = errno ? -errno : -EIO;
	fprintf(stderr, "no program attached for %s: %s\n", path, strerror(-err));
	return err;
}

void dwunw_probes__free(struct dwunw_probes *probes)
{
	if (!probes)
		return;
	dwunw_detach(probes->attachment);
	free(probes);
}
/* dwunw-added: end */
