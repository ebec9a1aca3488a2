/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Attaching a BPF program to the entries and returns of many functions of a file, by the cheapest way that the kernel
 * has: a uprobe session (Linux 6.13: one program sees both, and keeps a cookie from entry to return), uprobe.multi
 * (6.6: one link for all entries, one for all returns), or a perf event for each probe. The first two attach and detach
 * in about the time that the last takes for one probe, and need nothing of libbpf that 1.0 has not.
 *
 *   1. dwunw_attach_prepare, between open and load of the bpf_object: asks the kernel, and sets the programs up;
 *   2. bpf_object__load;
 *   3. dwunw_attach, once for each file; dwunw_detach ends it.
 *
 * Threads: each object from one thread at a time. libbpf prints its own warnings, where libbpf_set_print says.
 * Optional: link libdwunw_bpf.a, with libdwunw.a and libbpf.
 */
#ifndef DWUNW_BPF_ATTACH_H
#define DWUNW_BPF_ATTACH_H

#include <dwunw/dwunw_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bpf_program; /* libbpf's */

enum dwunw_attach_form {
    DWUNW_ATTACH_AUTO = 0, /* the first of these that the kernel has and there is a program for */
    DWUNW_ATTACH_SESSION = 1,
    DWUNW_ATTACH_MULTI = 2,
    DWUNW_ATTACH_SINGLE = 3,
};

/*
 * How returns are seen. A return probe replaces the return address in the program's stack, and the kernel can lose what
 * it replaced: a signal handler on an alternate stack above the thread's own that calls a probed function makes a
 * pending call end in SIGILL; so does a fiber that returns in another thread. The program sees it, too: its own
 * backtrace() ends there, no exception and no cancellation passes it. A session's entry program can leave a return
 * alone by returning 1, and dwunw/bpf/dwunw_calls.bpf.h does so in time; other return probes cannot be refused. A probe
 * on each return instruction changes nothing, and costs a single-stepped trap.
 */
enum dwunw_attach_returns {
    DWUNW_ATTACH_RETURNS_AUTO = 0, /* return probes in a session, else return instructions */
    DWUNW_ATTACH_RETURN_PROBES = 1,
    DWUNW_ATTACH_RETURN_INSTRUCTIONS = 2, /* `exit` runs there: SP is what it was at the entry */
};

/* In the cookie of a return instruction: the result is in rdi, not in rax (DWUNW_PROBE_RESULT_IN_RDI). */
#define DWUNW_ATTACH_COOKIE_RESULT_IN_RDI (1ull << 63)

/*
 * One object's programs, in section "uprobe" or "uretprobe", not loaded yet. `session` runs at entry and at return and
 * tells them apart by bpf_session_is_return; `entry` and `exit` are the same work as two programs. Any may be NULL:
 * what would need it is not attached. `session` gets the points that have both entry and return; the others get `entry`
 * or `exit`.
 */
struct dwunw_attach_programs {
    uint32_t size;
    uint32_t form; /* enum dwunw_attach_form: which one to use */
    struct bpf_program *session;
    struct bpf_program *entry;
    struct bpf_program *exit;
    uint32_t returns; /* enum dwunw_attach_returns: which ones to use */
    uint32_t reserved;
};

struct dwunw_attach_plan {
    uint32_t size;
    uint32_t form;    /* the one chosen */
    uint32_t returns; /* likewise; DWUNW_ATTACH_RETURN_PROBES without a session is what can end the program */
    uint32_t reserved;
    char reason[192]; /* in words, NUL-terminated: what was chosen, and why nothing better */
};

/*
 * Chooses the form, sets each program's attach type, and leaves `session` unloaded where it is not used. Asks the
 * kernel by loading a program of two instructions. DWUNW_ERR_NOT_FOUND: the kernel has not the form that was asked for,
 * as out->reason says; DWUNW_ERR_INVALID_ARGUMENT: no program for it, or one that is loaded already.
 */
dwunw_status dwunw_attach_prepare(const struct dwunw_attach_programs *programs, struct dwunw_attach_plan *out);

/* dwunw_attach_point.when */
enum {
    DWUNW_ATTACH_AT_ENTRY = 1u << 0,
    DWUNW_ATTACH_AT_RETURN = 1u << 1,
};

struct dwunw_attach_point {
    uint64_t file_offset; /* dwunw_probe_placement.file_offset */
    uint64_t cookie;      /* bpf_get_attach_cookie's; 0 for all: kernels before 5.15, too */
    uint32_t when;
    uint32_t reserved;
};

struct dwunw_attach_request {
    uint32_t size;
    int32_t pid; /* 0: every process, now and later */
    const char *path;
    const struct dwunw_attach_point *points;
    size_t count;
};

struct dwunw_attachment;

/*
 * Attaches to all points, or to none. Allocates. Where returns are seen by their instructions, the file is read for
 * them; an instruction that several points share has the first one's cookie. DWUNW_ERR_NOT_FOUND, with errno ENOTSUP:
 * those of a point cannot all be known (dwunw_probe_find_returns tells which and why). DWUNW_ERR_NO_FILE,
 * DWUNW_ERR_NO_PROCESS, DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES, DWUNW_ERR_OUT_OF_MEMORY, DWUNW_ERR_LIMIT (more
 * points than the kernel takes in one link, 1 << 20); DWUNW_ERR_INVALID_ARGUMENT, also when the kernel says so: an
 * offset that is no code; else DWUNW_ERR_IO. After an error, `errno` is the system call's.
 */
dwunw_status dwunw_attach(const struct dwunw_attach_programs *programs, const struct dwunw_attach_plan *plan,
                          const struct dwunw_attach_request *request, struct dwunw_attachment **out);

/* How many links, which is descriptors, it took. */
size_t dwunw_attachment_links(const struct dwunw_attachment *attachment);

void dwunw_detach(struct dwunw_attachment *attachment);

#ifdef __cplusplus
}
#endif

#endif
