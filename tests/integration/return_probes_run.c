// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * return_probes_run FORM RETURNS TARGET SUBJECT ROUNDS: starts the target, probes its functions `outer` and `inner` in
 * a form (an enum dwunw_attach_form), sees their returns in a way (an enum dwunw_attach_returns), and waits for its
 * end. Prints a line of JSON: how the target ended, and the counts. Exit status 3: this kernel lacks the form.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dwunw/bpf_attach.h>
#include <dwunw/bpf_stacks.h>
#include <dwunw/probe_placement.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "return_probes.h"
#include "return_probes.skel.h"

static const char *const names[] = {"outer", "inner"};
static const char libc_path[] = "/lib/x86_64-linux-gnu/libc.so.6";

static void fail(const char *what, const char *why) {
    fprintf(stderr, "return_probes_run: %s: %s\n", what, why);
    exit(1);
}

static void check(dwunw_status status, const char *what) {
    if (status != DWUNW_OK)
        fail(what, dwunw_status_string(status));
}

static struct dwunw_attach_point point(const char *path, const char *symbol, __u64 cookie, uint32_t when) {
    struct dwunw_probe_placement placement = {.size = sizeof(placement)};
    struct dwunw_probe_file *file;

    check(dwunw_probe_file_open(path, &file), path);
    check(dwunw_probe_place_symbol(file, symbol, NULL, &placement), symbol);
    dwunw_probe_file_close(file);
    return (struct dwunw_attach_point){.file_offset = placement.file_offset, .cookie = cookie, .when = when};
}

/* The target, waiting for a byte on *go. */
static pid_t start(char **argv, int *go) {
    int pipe_fds[2];
    pid_t pid;

    if (pipe(pipe_fds))
        fail("pipe", strerror(errno));
    pid = fork();
    if (pid == 0) {
        dup2(pipe_fds[0], STDIN_FILENO);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0)
        fail("fork", strerror(errno));
    close(pipe_fds[0]);
    *go = pipe_fds[1];
    return pid;
}

int main(int argc, char **argv) {
    struct dwunw_attach_programs programs = {.size = sizeof(programs)};
    struct dwunw_attach_plan plan = {.size = sizeof(plan)};
    struct dwunw_attach_point points[2], jump;
    struct dwunw_attach_request request = {.size = sizeof(request), .points = points, .count = 2};
    struct dwunw_attachment *functions = NULL, *jumps = NULL;
    struct dwunw_bpf_counters counters = {.size = sizeof(counters)};
    struct return_probes *skeleton = return_probes__open();
    struct dwunw_context *context = NULL;
    struct dwunw_bpf *bpf = NULL;
    int go, status;
    pid_t pid;

    if (argc != 6 || !skeleton)
        return 2;
    programs.form = (uint32_t)atoi(argv[1]);
    programs.returns = (uint32_t)atoi(argv[2]);
    programs.session = skeleton->progs.on_both;
    programs.entry = skeleton->progs.on_entry;
    programs.exit = skeleton->progs.on_return;
    if (dwunw_attach_prepare(&programs, &plan) != DWUNW_OK) {
        printf("{\"reason\": \"%s\"}\n", plan.reason);
        return 3;
    }
    skeleton->rodata->by_instruction = plan.returns == DWUNW_ATTACH_RETURN_INSTRUCTIONS;
    check(dwunw_init(NULL, &context), "init");
    check(dwunw_bpf_open(context, skeleton->obj, NULL, &bpf), "open");
    if (return_probes__load(skeleton))
        fail("load", strerror(errno));
    check(dwunw_bpf_start(bpf), "start");

    pid = start(argv + 3, &go);
    request.pid = pid;
    request.path = argv[3];
    for (int i = 0; i < 2; i++)
        points[i] = point(argv[3], names[i], RETURN_PROBES_CALL, DWUNW_ATTACH_AT_ENTRY | DWUNW_ATTACH_AT_RETURN);
    check(dwunw_attach(&programs, &plan, &request, &functions), "attach");
    jump = point(libc_path, "longjmp", RETURN_PROBES_LONGJMP, DWUNW_ATTACH_AT_ENTRY);
    request.path = libc_path;
    request.points = &jump;
    request.count = 1;
    check(dwunw_attach(&programs, &plan, &request, &jumps), "attach to longjmp");
    if (write(go, "g", 1) != 1 || waitpid(pid, &status, 0) != pid)
        fail("target", strerror(errno));
    dwunw_detach(functions);
    dwunw_detach(jumps);
    check(dwunw_bpf_get_counters(bpf, &counters), "counters");
    printf("{\"reason\": \"%s\", \"status\": %d, \"signal\": %d", plan.reason,
           WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    printf(", \"entered\": %llu, \"begun\": %llu, \"ended\": %llu, \"wrong\": %llu, \"jumps\": %llu",
           skeleton->bss->entered, skeleton->bss->begun, skeleton->bss->ended, skeleton->bss->wrong,
           skeleton->bss->jumps);
    printf(", \"other_stack\": %lu, \"abandoned\": %lu}\n", counters.other_stack_calls, counters.abandoned_calls);
    dwunw_bpf_close(bpf);
    return_probes__destroy(skeleton);
    dwunw_shutdown(context);
    return 0;
}
