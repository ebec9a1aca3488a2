// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Tests dwunw/bpf_attach.h in each form that the kernel has, on functions of this program: entries and returns are
 * counted while it is attached, and not after it is detached. On a failure, prints what was wrong and ends with status
 * 1.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dwunw/bpf_attach.h>
#include <dwunw/probe_placement.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "probe_placement.h"
#include "probe_placement.skel.h"

#define FUNCTIONS 11
#define CALLS 7

#define FUNCTION(n)                                                                                                    \
    __attribute__((noinline, used)) long attach_target_##n(long value);                                                \
    long attach_target_##n(long value) {                                                                               \
        __asm__ volatile("" : "+r"(value));                                                                            \
        return value + (n);                                                                                            \
    }
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10)
EACH(FUNCTION)

#define POINTER(n) attach_target_##n,
#define NAME(n) "attach_target_" #n,
static long (*volatile const functions[FUNCTIONS])(long) = {EACH(POINTER)};
static const char *const names[FUNCTIONS] = {EACH(NAME)};

static int failures;

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("FAIL line %d: %s: ", __LINE__, #condition);                                                        \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

static double milliseconds(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static struct seen seen(const struct probe_placement_bpf *skeleton, unsigned int slot) {
    struct seen result = {0};

    CHECK(bpf_map_lookup_elem(bpf_map__fd(skeleton->maps.places), &slot, &result) == 0, "slot %u", slot);
    return result;
}

static void call_all(void) {
    for (int i = 0; i < FUNCTIONS; i++)
        for (long call = 0; call < CALLS; call++)
            functions[i](call);
}

/* Of three functions the first has its entry probed, the second its return, the third both. */
static unsigned int when(int function) {
    static const unsigned int kinds[] = {DWUNW_ATTACH_AT_ENTRY, DWUNW_ATTACH_AT_RETURN,
                                         DWUNW_ATTACH_AT_ENTRY | DWUNW_ATTACH_AT_RETURN};

    return kinds[function % 3];
}

static void check_counts(const struct probe_placement_bpf *skeleton) {
    for (int i = 0; i < FUNCTIONS; i++) {
        unsigned long long entries = seen(skeleton, SLOT(i, AT_ENTRY)).calls;
        unsigned long long returns = seen(skeleton, SLOT(i, RETURN_AT_ENTRY)).calls;

        CHECK(entries == (when(i) & DWUNW_ATTACH_AT_ENTRY ? CALLS : 0), "%s: %llu entries", names[i], entries);
        CHECK(returns == (when(i) & DWUNW_ATTACH_AT_RETURN ? CALLS : 0), "%s: %llu returns", names[i], returns);
    }
}

static void check_errors(const struct dwunw_attach_programs *programs, const struct dwunw_attach_plan *plan,
                         const struct dwunw_attach_request *good) {
    struct dwunw_attach_point beyond = {.file_offset = 1ULL << 40, .when = DWUNW_ATTACH_AT_ENTRY};
    struct dwunw_attach_point never = good->points[0];
    struct dwunw_attachment *attachment = NULL;
    struct dwunw_attach_request request = *good;

    request.path = "/nonexistent/file";
    CHECK(dwunw_attach(programs, plan, &request, &attachment) == DWUNW_ERR_NO_FILE && errno == ENOENT, "%m");
    request = *good;
    request.points = &beyond;
    request.count = 1;
    CHECK(dwunw_attach(programs, plan, &request, &attachment) == DWUNW_ERR_INVALID_ARGUMENT && errno == EINVAL, "%m");
    never.when = 0;
    request.points = &never;
    CHECK(dwunw_attach(programs, plan, &request, &attachment) == DWUNW_ERR_INVALID_ARGUMENT, "a point for nothing");
    request = *good;
    request.size--;
    CHECK(dwunw_attach(programs, plan, &request, &attachment) == DWUNW_ERR_STRUCT_SIZE, "too small");
    CHECK(attachment == NULL, "attached nevertheless");
}

static void run(enum dwunw_attach_form form, enum dwunw_attach_returns returns, const char *path,
                const unsigned long long offsets[FUNCTIONS]) {
    struct probe_placement_bpf *skeleton = probe_placement_bpf__open();
    struct dwunw_attach_point points[FUNCTIONS];
    struct dwunw_attach_programs programs = {.size = sizeof(programs), .form = form, .returns = returns};
    struct dwunw_attach_plan plan = {.size = sizeof(plan)};
    struct dwunw_attach_request request = {
        .size = sizeof(request), .pid = getpid(), .path = path, .points = points, .count = FUNCTIONS};
    struct dwunw_attachment *attachment = NULL;
    double begin, attached, detached;
    dwunw_status status;

    CHECK(skeleton, "%m");
    if (!skeleton)
        return;
    for (int i = 0; i < FUNCTIONS; i++)
        points[i] = (struct dwunw_attach_point){
            .file_offset = offsets[i], .cookie = SLOT(i, AT_ENTRY) | 1ULL << 32, .when = when(i)};
    programs.session = skeleton->progs.in_session;
    programs.entry = skeleton->progs.entered;
    programs.exit = skeleton->progs.returned;
    status = dwunw_attach_prepare(&programs, &plan);
    printf("form %u, returns %u: %s: %u, %u: %s\n", form, returns, dwunw_status_string(status), plan.form, plan.returns,
           plan.reason);
    if (form == DWUNW_ATTACH_SESSION && returns == DWUNW_ATTACH_RETURN_INSTRUCTIONS) {
        CHECK(status == DWUNW_ERR_INVALID_ARGUMENT, "a session sees no return instructions");
        goto end;
    }
    if (status == DWUNW_ERR_NOT_FOUND) { /* a kernel without it, which the reason has to say */
        CHECK(strncmp(plan.reason, "no uprobe", 9) == 0, "%s", plan.reason);
        goto end;
    }
    CHECK(status == DWUNW_OK && (form == DWUNW_ATTACH_AUTO || plan.form == (unsigned int)form), "%s", plan.reason);
    CHECK(plan.returns == (returns                             ? returns
                           : plan.form == DWUNW_ATTACH_SESSION ? (unsigned int)DWUNW_ATTACH_RETURN_PROBES
                                                               : (unsigned int)DWUNW_ATTACH_RETURN_INSTRUCTIONS),
          "%s", plan.reason);
    CHECK((strstr(plan.reason, "as requested") != NULL) == (form != DWUNW_ATTACH_AUTO), "%s", plan.reason);
    status = dwunw_attach(&programs, &plan, &request, &attachment);
    CHECK(status == DWUNW_ERR_INVALID_ARGUMENT, "attached before it was loaded");
    CHECK(probe_placement_bpf__load(skeleton) == 0, "%m");
    if (failures)
        goto end;
    CHECK(dwunw_attach_prepare(&programs, &plan) == DWUNW_ERR_INVALID_ARGUMENT, "prepared when it was loaded");
    check_errors(&programs, &plan, &request);

    begin = milliseconds();
    status = dwunw_attach(&programs, &plan, &request, &attachment);
    attached = milliseconds();
    CHECK(status == DWUNW_OK, "%s: %m", dwunw_status_string(status));
    call_all();
    check_counts(skeleton);
    detached = milliseconds();
    printf("  %zu links: attached in %.1f ms, ", dwunw_attachment_links(attachment), attached - begin);
    dwunw_detach(attachment);
    printf("detached in %.1f ms\n", milliseconds() - detached);
    call_all();
    check_counts(skeleton);
end:
    probe_placement_bpf__destroy(skeleton);
}

int main(void) {
    static const char path[] = "/proc/self/exe";
    unsigned long long offsets[FUNCTIONS];
    struct dwunw_probe_file *file = NULL;

    CHECK(dwunw_probe_file_open(path, &file) == DWUNW_OK, "%s", path);
    if (failures)
        return 1;
    for (int i = 0; i < FUNCTIONS; i++) {
        struct dwunw_probe_placement placement = {.size = sizeof(placement)};

        CHECK(dwunw_probe_place_symbol(file, names[i], NULL, &placement) == DWUNW_OK, "%s", names[i]);
        offsets[i] = placement.file_offset;
    }
    dwunw_probe_file_close(file);
    if (!failures)
        for (enum dwunw_attach_form form = DWUNW_ATTACH_AUTO; form <= DWUNW_ATTACH_SINGLE; form++)
            for (enum dwunw_attach_returns returns = DWUNW_ATTACH_RETURNS_AUTO;
                 returns <= DWUNW_ATTACH_RETURN_INSTRUCTIONS; returns++)
                run(form, returns, path, offsets);
    printf("%s\n", failures ? "failed" : "passed");
    return failures != 0;
}
