/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Stacks inside BPF, the loader's half (libdwunw_bpf.a; needs libbpf 1.1 or later).
 *
 * A BPF program includes <dwunw/bpf/dwunw.bpf.h> and calls dwunw_get_stackid(ctx, flags), which returns a stack id. The
 * loader turns the id into frames. The order of calls:
 *
 *     skeleton__open(), dwunw_bpf_open()    asks what the kernel can do, and sizes the maps
 *     skeleton__load(), dwunw_bpf_start()   fills the maps, and attaches the probes that see a process's map change
 *     dwunw_bpf_add_process()               copies a process's tables into the kernel
 *     attach the tool's own probes
 *     dwunw_bpf_poll(), again and again     takes in new stacks, and processes whose map has changed
 *     dwunw_bpf_lookup()                    gives the frames of an id
 *     dwunw_bpf_close()                     before the skeleton and the context end
 *
 * Call dwunw_bpf_poll often. It brings the frames of new stacks. It also publishes a map that has changed; before that,
 * stacks that lead through the changed part go to user space as registers and stack bytes, which fill the ring buffer.
 *
 * The promise is unwind.h's: no frame is wrong, and an incomplete stack says why. dwunw_bpf_add_process names the limit
 * of this promise.
 *
 * Threads: one thread at a time for each struct dwunw_bpf, in all functions.
 */
#ifndef DWUNW_BPF_STACKS_H
#define DWUNW_BPF_STACKS_H

#include <dwunw/bpf/dwunw_types.h>
#include <dwunw/dwunw_api.h>
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bpf_object; /* libbpf's */
struct dwunw_bpf;

/* dwunw_bpf_options.flags */
enum {
    /* The next poll adds a process that calls dwunw_get_stackid and was not added before. */
    DWUNW_BPF_ADD_UNKNOWN = 1u << 0,
    /* Do not use a feature, as if the kernel lacked it. */
    DWUNW_BPF_NO_LOOP = 1u << 1,         /* bpf_loop: the kernel's walk ends at DWUNW_BPF_MAX_FRAMES_OLD frames */
    DWUNW_BPF_NO_TASK_STORAGE = 1u << 2, /* a hash by thread holds the state of a walk */
    DWUNW_BPF_NO_LINKER_PROBE = 1u << 3, /* only the number of executable pages shows the dynamic linker's changes */
    /* Turn the walk off in a tool that was built with dwunw.bpf.h. The verifier skips the walk, the maps get their
       smallest size, and dwunw_bpf_start refuses the object. dwunw_calls.bpf.h works unchanged. */
    DWUNW_BPF_OFF = 1u << 4,
};

/* 0 in a field means the default, which stands last in its comment. */
struct dwunw_bpf_options {
    uint32_t size;
    uint32_t flags;
    uint32_t pool_bytes;       /* room for the tables of all modules; 8 MiB */
    uint32_t mappings;         /* room for the executable mappings of all processes; 16,384 */
    uint32_t processes;        /* room for processes; 1,024 */
    uint32_t ring_bytes;       /* size of the ring buffer, a power of two of pages; 4 MiB */
    uint32_t stack_ids;        /* ids that the kernel remembers as sent; a forgotten one is sent again; 32,768 */
    uint32_t slice_bytes;      /* stack bytes for a walk in user space, at most 64 KiB; 64 KiB */
    uint32_t threads;          /* threads with the state of a walk or a call at once, without task storage; 1,024 */
    uint32_t path_limit;       /* new stacks for user space, a second, that begin with the same frames; 256 */
    uint32_t first_generation; /* the first generation of published maps; for tests of its wrapping around; 1 */
    uint32_t kept_bytes;       /* approximate memory of the stacks that dwunw_bpf_lookup knows; 256 MiB */
};

/*
 * Call it between the object's open and its load. Asks what the kernel can do, and sizes the maps. `options` may be
 * NULL. Errors: DWUNW_ERR_INVALID_ARGUMENT (also: the object does not include dwunw.bpf.h), DWUNW_ERR_PERMISSION,
 * DWUNW_ERR_LOCKED_DOWN (lockdown=confidentiality), DWUNW_ERR_NO_BTF, DWUNW_ERR_BPF (no ring buffer: Linux before 5.8),
 * DWUNW_ERR_PID_NAMESPACE (/proc is not mounted, or not for the caller's pid namespace). Allocates.
 */
dwunw_status dwunw_bpf_open(struct dwunw_context *context, struct bpf_object *object,
                            const struct dwunw_bpf_options *options, struct dwunw_bpf **out);

/* Call it after the object's load. DWUNW_ERR_BPF: errno tells why. DWUNW_ERR_INVALID_ARGUMENT: DWUNW_BPF_OFF is set; or
   a program that is neither uprobe nor kprobe calls dwunw_get_stackid, so that its ctx is not a pt_regs;
   dwunw_bpf_describe names that program. */
dwunw_status dwunw_bpf_start(struct dwunw_bpf *bpf);

/*
 * Compiles and publishes the tables of a process. Takes some milliseconds for each MiB of call-frame information that
 * no earlier process had. Reads the map of a process again that was added before. Errors: those of dwunw_process_open,
 * DWUNW_ERR_LIMIT (more than `processes` processes), DWUNW_ERR_BPF.
 *
 * Three signs show that a process's map has changed: the dynamic linker's notification (glibc's and musl's tell
 * debuggers of every dlopen and dlclose), the number of executable pages, and exec. None of them shows that a program,
 * between two stacks and without the dynamic linker, replaces code by other code of the same size.
 *
 * `pid` is the number in the caller's pid namespace. The process may belong to a namespace within that one.
 */
dwunw_status dwunw_bpf_add_process(struct dwunw_bpf *bpf, int32_t pid);
void dwunw_bpf_remove_process(struct dwunw_bpf *bpf, int32_t pid);

/* The process, for dwunw_process_* and symbols. NULL: not added. `bpf` owns it. */
struct dwunw_process *dwunw_bpf_process(struct dwunw_bpf *bpf, int32_t pid);

/*
 * Sets *since_ns to the time (CLOCK_MONOTONIC, as bpf_ktime_get_ns) from which on the process's map has shown no sign
 * of a change. A code address that was recorded after that time still has the same meaning. The time is that of the
 * first call of this function after the last sign, so call it often. That call also reads the map again.
 * dwunw_bpf_add_process lists the signs. Errors: DWUNW_ERR_NOT_FOUND (the process was not added, or its exit was taken
 * in), those of dwunw_bpf_add_process.
 */
dwunw_status dwunw_bpf_unchanged_since(struct dwunw_bpf *bpf, int32_t pid, uint64_t *since_ns);

/*
 * Takes in the records that the kernel has sent. Waits up to timeout_ms for the first one (0: does not wait). *taken
 * (may be NULL) receives the number of records. One poll ends after some thousand records or a fifth of a second, even
 * if more records wait. DWUNW_ERR_BPF: errno tells why, EINTR after a signal. Allocates.
 */
dwunw_status dwunw_bpf_poll(struct dwunw_bpf *bpf, int timeout_ms, size_t *taken);

/* A descriptor that is readable while records wait for dwunw_bpf_poll. */
int dwunw_bpf_epoll_fd(const struct dwunw_bpf *bpf);

struct dwunw_bpf_stack {
    uint32_t size;
    int32_t pid;
    dwunw_status status; /* DWUNW_OK: complete; otherwise why the walk stopped */
    uint32_t reason;     /* enum dwunw_bpf_reason: why the kernel did not finish the stack; 0: it did */
    uint64_t id;         /* the first id of a stack with the same frames; it may be another id than the one asked for */
    uint64_t count;      /* the number of frames, also if it exceeds max_frames */
};

/*
 * Gives a stack's frames, innermost first, at most max_frames of them. Their `sp` and `cfa` are 0, because these differ
 * from call to call. DWUNW_ERR_NOT_FOUND: there is no such id, or its record has not been polled yet. DWUNW_ERR_LIMIT:
 * kept_bytes had no room for its frames. Allocates nothing.
 */
dwunw_status dwunw_bpf_lookup(const struct dwunw_bpf *bpf, uint64_t id, struct dwunw_bpf_stack *stack,
                              struct dwunw_frame *frames, size_t max_frames);

/* Calls `visit` for every known id. `visit` may call no function on `bpf` except dwunw_bpf_lookup. */
void dwunw_bpf_each_stack(const struct dwunw_bpf *bpf, void (*visit)(void *arg, uint64_t id), void *arg);

/*
 * Forgets stacks that the caller no longer needs. Without this call they are kept until kept_bytes is full.
 *
 * `ids` lists all ids that the caller still holds, in any order, including those that its BPF programs have stored. An
 * id is forgotten if it is neither in this list nor in the list of the call before, and did not come again in between.
 * Two lists are needed because a program may hold an id, and store it only after the caller has made a list; the next
 * list then has it. So leave some seconds between two calls: longer than a program takes to store an id. Allocates.
 */
dwunw_status dwunw_bpf_retain(struct dwunw_bpf *bpf, const uint64_t *ids, size_t count);

/* The reasons that dwunw_bpf_counters has room for: more than DWUNW_BPF_REASONS, so that a new one moves no field. */
#define DWUNW_BPF_REASON_ROOM 32

struct dwunw_bpf_counters {
    uint32_t size;
    uint32_t reserved;
    uint64_t walks;                          /* calls of dwunw_get_stackid */
    uint64_t reasons[DWUNW_BPF_REASON_ROOM]; /* by enum dwunw_bpf_reason: [0] complete in the kernel; up to
                                            DWUNW_BPF_LAST_FALLBACK sent to user space; the others without an id */
    uint64_t frames;                         /* found in the kernel */
    uint64_t cache_misses;                   /* frames whose rule had to be looked up in a table */
    uint64_t trampoline_frames;              /* frames taken from a pending return */
    uint64_t new_stacks;                     /* records with frames */
    uint64_t user_walks;                     /* records with registers and stack bytes */
    uint64_t deduplicated;                   /* stacks for user space that user space already had */
    uint64_t failed_inserts;                 /* ids that could not be noted as sent */
    uint64_t process_requests;               /* the kernel asked user space to read a process's map again */
    uint64_t requests_dropped;               /* requests that found the ring buffer full; the kernel repeats them */
    uint64_t linker_events;                  /* changes that the dynamic linker announced, and exec */
    uint64_t lost_calls;                     /* dwunw_calls.bpf.h: entries that found no memory */
    uint64_t publications;
    uint64_t user_walks_complete;
    uint64_t user_walks_stale; /* ended with DWUNW_ERR_MODULE_CHANGED: the map had changed before the walk */
    uint64_t stacks;           /* ids that user space knows */
    uint64_t id_collisions;    /* records that brought other frames for a known id; the first frames stay */
    uint64_t records_malformed;
    uint64_t lost_to_memory; /* records that found no memory, or no room within kept_bytes */
    uint64_t modules;        /* tables in the pool */
    uint64_t modules_without_room;
    uint64_t rules_left_to_user; /* rules, of the tables in the pool, that the kernel cannot execute */
    uint64_t pool_bytes;
    uint64_t pool_bytes_used;
    uint64_t mappings_used;
    uint64_t memory_bytes;      /* approximate memory of the BPF maps */
    uint64_t other_stack_calls; /* dwunw_calls.bpf.h: calls that were not followed, because another call may be pending
                                   on another stack of the thread */
    uint64_t abandoned_calls;   /* dwunw_calls.bpf.h: pending calls that ended without a return, e.g. by longjmp */
    uint64_t user_walks_then;   /* walks with the map of the stack's moment, which was not the current map */
    uint64_t kept_bytes;        /* approximate memory of the stacks and ids in user space */
    uint64_t distinct_stacks;   /* stacks kept */
    uint64_t forgotten;         /* ids that dwunw_bpf_retain has forgotten */
    uint64_t map_records;       /* new executable mappings, in all processes of the machine */
    uint64_t map_record_losses; /* the number of times that such records were lost. Until the map is read again, user
                                   space can walk a stack only if the map has not changed */
};
dwunw_status dwunw_bpf_get_counters(const struct dwunw_bpf *bpf, struct dwunw_bpf_counters *out);

/* A short text for a reason: static. Thread-safe. */
const char *dwunw_bpf_reason_string(uint32_t reason);

/* Writes what was chosen and why, a line each, NUL-terminated. Like snprintf, returns the length of the whole text. */
size_t dwunw_bpf_describe(const struct dwunw_bpf *bpf, char *buffer, size_t size);

void dwunw_bpf_close(struct dwunw_bpf *bpf);

#ifdef __cplusplus
}
#endif

#endif
