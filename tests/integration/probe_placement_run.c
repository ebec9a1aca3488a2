// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * probe_placement_run LIBRARY TARGET [PRELOAD]: tests placed probes. For every allocation function of LIBRARY it
 * attaches a probe at the answer and one at the entry, each with its return, runs TARGET, and compares them: the number
 * of calls, SP and arguments, and returns. Three times: keeping all argument registers; keeping only the function's
 * own; and also passing over reads of the module's data. Prints a line for each function, and every difference.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dwunw/bpf_attach.h>
#include <dwunw/probe_placement.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe_placement.h"
#include "probe_placement.skel.h"

#define CALLS 20
#define CALLS_TEXT "20"

static const struct {
    const char *name;
    unsigned int arguments;
} functions[] = {
    {"malloc", 1},
    {"calloc", 2},
    {"realloc", 2},
    {"free", 1},
    {"posix_memalign", 3},
    {"memalign", 2},
    {"aligned_alloc", 2},
    {"valloc", 1},
    {"pvalloc", 1},
    {"mmap", 6},
    {"munmap", 2},
    {"_Znwm", 1},
    {"_Znam", 1},
    {"_ZnwmRKSt9nothrow_t", 2},
    {"_ZnwmSt11align_val_t", 2},
    {"_ZdlPv", 1},
    {"_ZdaPv", 1},
    {"_ZdlPvm", 2},
    {"_ZdlPvSt11align_val_t", 2},
};
#define FUNCTIONS (sizeof(functions) / sizeof(functions[0]))
_Static_assert(FUNCTIONS <= MAX_FUNCTIONS, "the map has a slot for each");

enum mode { KEEP_ALL, KEEP_OWN, SKIP_READS, MODES };
static const char *const mode_names[MODES] = {"all", "own", "own,reads"};

struct target {
    pid_t pid;
    int go;
};

static int start_target(const char *path, const char *preload, struct target *target) {
    int in[2], out[2];
    char said[6];
    size_t have = 0;

    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        return -1;
    target->pid = fork();
    if (target->pid < 0)
        return -1;
    if (target->pid == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        if (preload)
            setenv("LD_PRELOAD", preload, 1);
        execl(path, path, CALLS_TEXT, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    target->go = in[1];
    while (have < sizeof(said)) {
        ssize_t count = read(out[0], said + have, sizeof(said) - have);

        if (count <= 0)
            break;
        have += (size_t)count;
    }
    close(out[0]);
    return have == sizeof(said) && memcmp(said, "ready\n", sizeof(said)) == 0 ? 0 : -1;
}

static int finish_target(struct target *target) {
    int status = 0;

    if (write(target->go, "g", 1) != 1)
        kill(target->pid, SIGKILL);
    close(target->go);
    if (waitpid(target->pid, &status, 0) != target->pid || !WIFEXITED(status) || WEXITSTATUS(status)) {
        printf("FAIL the target ended with status %#x\n", status);
        return -1;
    }
    return 0;
}

static int compare(struct probe_placement_bpf *skeleton, const char *library, enum mode mode, unsigned int function,
                   const struct dwunw_probe_placement *placement) {
    struct seen seen[PLACES];
    bool wrong = false;

    for (unsigned int place = 0; place < PLACES; place++) {
        unsigned int slot = SLOT(function, place);

        if (bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.places), &slot, &seen[place]))
            return -1;
        wrong |= seen[place].calls < CALLS;
    }
    wrong |= memcmp(&seen[AT_ENTRY], &seen[AT_PLACEMENT], sizeof(seen[0])) != 0;
    wrong |= memcmp(&seen[RETURN_AT_ENTRY], &seen[RETURN_AT_PLACEMENT], sizeof(seen[0])) != 0;
    printf("%s %s %s %s +%llu calls %llu/%llu returns %llu/%llu: %s\n", wrong ? "FAIL" : "ok", library,
           mode_names[mode], functions[function].name, (unsigned long long)placement->offset, seen[AT_ENTRY].calls,
           seen[AT_PLACEMENT].calls, seen[RETURN_AT_ENTRY].calls, seen[RETURN_AT_PLACEMENT].calls, placement->reason);
    return wrong ? -1 : 0;
}

/* Places each function's probe, and lists the two points where it is attached. Returns how many there are. */
static size_t place_all(const struct dwunw_probe_file *file, enum mode mode, struct dwunw_probe_placement *placements,
                        struct dwunw_attach_point *points, int *failures) {
    size_t count = 0;

    for (unsigned int i = 0; i < FUNCTIONS; i++) {
        struct dwunw_probe_placement *placement = &placements[i];
        struct dwunw_probe_options options = {
            .size = sizeof(options),
            .arguments = mode == KEEP_ALL ? 0 : functions[i].arguments,
            .flags = mode == SKIP_READS ? DWUNW_PROBE_SKIP_MODULE_READS : 0,
        };
        __u64 compared = mode == KEEP_ALL ? MAX_ARGUMENTS : functions[i].arguments;
        dwunw_status status;

        *placement = (struct dwunw_probe_placement){.size = sizeof(*placement)};
        status = dwunw_probe_place_symbol(file, functions[i].name, &options, placement);
        if (status == DWUNW_ERR_NOT_FOUND)
            continue;
        if (status != DWUNW_OK) {
            printf("FAIL %s: %s\n", functions[i].name, dwunw_status_string(status));
            ++*failures;
            continue;
        }
        for (int place = AT_ENTRY; place <= AT_PLACEMENT; place++)
            points[count++] = (struct dwunw_attach_point){
                .file_offset = placement->file_offset - (place == AT_ENTRY ? placement->offset : 0),
                .cookie = SLOT(i, place) | compared << 32,
                .when = DWUNW_ATTACH_AT_ENTRY | DWUNW_ATTACH_AT_RETURN,
            };
    }
    return count;
}

static int run(const struct dwunw_probe_file *file, const char *library, const char *path, const char *preload,
               enum mode mode) {
    struct dwunw_probe_placement placements[FUNCTIONS];
    struct dwunw_attach_point points[2 * FUNCTIONS];
    struct dwunw_attach_programs programs = {.size = sizeof(programs)};
    struct dwunw_attach_plan plan = {.size = sizeof(plan)};
    struct dwunw_attach_request request = {.size = sizeof(request), .path = library, .points = points};
    struct dwunw_attachment *attachment = NULL;
    struct target target = {.go = -1};
    struct probe_placement_bpf *skeleton = probe_placement_bpf__open();
    int failures = 0;

    if (!skeleton)
        return 1;
    programs.session = skeleton->progs.in_session;
    programs.entry = skeleton->progs.entered;
    programs.exit = skeleton->progs.returned;
    if (dwunw_attach_prepare(&programs, &plan) != DWUNW_OK || probe_placement_bpf__load(skeleton) ||
        start_target(path, preload, &target)) {
        printf("FAIL %s: the program does not load, or %s does not start\n", library, path);
        probe_placement_bpf__destroy(skeleton);
        return 1;
    }
    request.count = place_all(file, mode, placements, points, &failures);
    request.pid = target.pid;
    if (dwunw_attach(&programs, &plan, &request, &attachment) != DWUNW_OK) {
        printf("FAIL %s: not attached by %s: %s\n", library, plan.reason, strerror(errno));
        failures++;
    }
    if (finish_target(&target))
        failures++;
    for (size_t i = 0; i < request.count; i += 2) {
        unsigned int function = (unsigned int)points[i].cookie / PLACES;

        if (compare(skeleton, library, mode, function, &placements[function]))
            failures++;
    }
    dwunw_detach(attachment);
    probe_placement_bpf__destroy(skeleton);
    return failures;
}

int main(int argc, char **argv) {
    struct dwunw_probe_file *file = NULL;
    dwunw_status status;
    int failures = 0;

    if (argc < 3) {
        fprintf(stderr, "usage: %s LIBRARY TARGET [PRELOAD]\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    status = dwunw_probe_file_open(argv[1], &file);
    if (status != DWUNW_OK) {
        printf("FAIL %s: %s\n", argv[1], dwunw_status_string(status));
        return 1;
    }
    for (enum mode mode = KEEP_ALL; mode < MODES; mode++)
        failures += run(file, argv[1], argv[2], argc > 3 ? argv[3] : NULL, mode);
    dwunw_probe_file_close(file);
    return failures != 0;
}
