/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Attaches a BPF program to the entries and returns of many functions of a file, in the cheapest form that the kernel
 * has:
 *
 *     session   Linux 6.13   one program sees both, and keeps a cookie from entry to return
 *     multi     Linux 6.6    uprobe.multi: one link for all entries, one for all returns
 *     single                 a perf event for each probe
 *
 * A session or a multi link attaches and detaches all its probes in about the time of one single probe. libbpf 1.0 is
 * enough for both.
 *
 *   1. dwunw_attach_prepare, between open and load of the bpf_object: asks the kernel and sets the programs up;
 *   2. bpf_object__load;
 *   3. dwunw_attach, once for each file; dwunw_detach ends it.
 *
 * Threads: one thread at a time for each object. libbpf prints its own warnings through libbpf_set_print's function.
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
    DWUNW_ATTACH_AUTO = 0, /* the first of the forms below that the kernel has and the caller has a program for */
    DWUNW_ATTACH_SESSION = 1,
    DWUNW_ATTACH_MULTI = 2,
    DWUNW_ATTACH_SINGLE = 3,
};

/*
 * How the tool sees returns.
 *
 * A return probe replaces the return address in the program's stack. The kernel can lose the address that it replaced,
 * and the program then dies of SIGILL when the pending call returns. It happens when
 *   - a signal handler on an alternate stack above the thread's own calls a probed function;
 *   - a fiber returns in another thread than it was called in.
 * The program also sees the replaced address itself: its own backtrace() ends there, and no exception and no thread
 * cancellation passes it. A session's entry program can refuse the return probe of one call by returning 1;
 * dwunw/bpf/dwunw_calls.bpf.h does so when a return probe would be dangerous. Other forms of return probe cannot be
 * refused.
 *
 * A probe on each return instruction changes nothing in the program, and costs a single-stepped trap.
 */
enum dwunw_attach_returns {
    DWUNW_ATTACH_RETURNS_AUTO = 0, /* return probes in a session, else return instructions */
    DWUNW_ATTACH_RETURN_PROBES = 1,
    DWUNW_ATTACH_RETURN_INSTRUCTIONS = 2, /* `exit` runs at each of them; SP equals SP at the entry */
};

/* Set in the cookie of a return instruction: the result is in rdi, not in rax (DWUNW_PROBE_RESULT_IN_RDI). */
#define DWUNW_ATTACH_COOKIE_RESULT_IN_RDI (1ull << 63)

/*
 * The programs of one object, in section "uprobe" or "uretprobe", not loaded yet.
 *
 * `session` runs at entry and at return and tells them apart by bpf_session_is_return. `entry` and `exit` do the same
 * work as two programs. In the session form, `session` runs at the points that have both entry and return; `entry` or
 * `exit` runs at the others. Each may be NULL; then nothing that needs it is attached.
 */
struct dwunw_attach_programs {
    uint32_t size;
    uint32_t form; /* enum dwunw_attach_form: the form to use */
    struct bpf_program *session;
    struct bpf_program *entry;
    struct bpf_program *exit;
    uint32_t returns; /* enum dwunw_attach_returns: how to see returns */
    uint32_t reserved;
};

struct dwunw_attach_plan {
    uint32_t size;
    uint32_t form;    /* the chosen form */
    uint32_t returns; /* likewise; DWUNW_ATTACH_RETURN_PROBES without a session can end the program */
    uint32_t reserved;
    char reason[192]; /* in words, NUL-terminated: the choice, and why no better one was possible */
};

/*
 * Chooses the form and sets each program's attach type. If the form does not use `session`, libbpf will not load it.
 * Asks the kernel by loading a program of two instructions. DWUNW_ERR_NOT_FOUND: the kernel lacks the requested form;
 * out->reason says so. DWUNW_ERR_INVALID_ARGUMENT: there is no program for the form, or a program is loaded already.
 */
dwunw_status dwunw_attach_prepare(const struct dwunw_attach_programs *programs, struct dwunw_attach_plan *out);

/* dwunw_attach_point.when */
enum {
    DWUNW_ATTACH_AT_ENTRY = 1u << 0,
    DWUNW_ATTACH_AT_RETURN = 1u << 1,
};

struct dwunw_attach_point {
    uint64_t file_offset; /* dwunw_probe_placement.file_offset */
    uint64_t cookie;      /* what bpf_get_attach_cookie returns; kernels before 5.15 need 0 in all points */
    uint32_t when;
    uint32_t reserved;
};

struct dwunw_attach_request {
    uint32_t size;
    int32_t pid; /* 0: every process, present and future */
    const char *path;
    const struct dwunw_attach_point *points;
    size_t count;
};

struct dwunw_attachment;

/*
 * Attaches to all points, or to none. Allocates. With DWUNW_ATTACH_RETURN_INSTRUCTIONS it also reads the file for the
 * return instructions; an instruction that several points share gets the first one's cookie.
 *
 * Errors: DWUNW_ERR_NOT_FOUND with errno ENOTSUP (the return instructions of a point cannot all be known;
 * dwunw_probe_find_returns tells which and why), DWUNW_ERR_NO_FILE, DWUNW_ERR_NO_PROCESS, DWUNW_ERR_PERMISSION,
 * DWUNW_ERR_TOO_MANY_FILES, DWUNW_ERR_OUT_OF_MEMORY, DWUNW_ERR_LIMIT (more points than the kernel accepts in one link,
 * 1 << 20), DWUNW_ERR_INVALID_ARGUMENT (also the kernel's: a file offset that is not code), otherwise DWUNW_ERR_IO.
 * After an error, `errno` is the system call's.
 */
dwunw_status dwunw_attach(const struct dwunw_attach_programs *programs, const struct dwunw_attach_plan *plan,
                          const struct dwunw_attach_request *request, struct dwunw_attachment **out);

/* The number of links, each of which holds a descriptor. */
size_t dwunw_attachment_links(const struct dwunw_attachment *attachment);

void dwunw_detach(struct dwunw_attachment *attachment);

#ifdef __cplusplus
}
#endif

#endif
