/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The loader's half of stacks inside BPF (libdwunw_bpf.a, needs libbpf ≥ 1.1).
 *
 * A BPF program includes <dwunw/bpf/dwunw.bpf.h> and calls dwunw_get_stackid(ctx, flags), which returns a stack id;
 * here the id is turned into frames. Around it, in this order:
 *
 *     skeleton__open()  dwunw_bpf_open()   sizes of the maps, what the kernel can do
 *     skeleton__load()  dwunw_bpf_start()  the maps, and the probes that say when a process's map changes
 *     dwunw_bpf_add_process()              a process's tables go into the kernel
 *     attach the tool's own probes
 *     dwunw_bpf_poll() …                   new stacks, and processes whose map has changed
 *     dwunw_bpf_lookup() …
 *     dwunw_bpf_close()                    before the skeleton and the context end
 *
 * Call dwunw_bpf_poll often: until it has, a new stack's frames are not here, and a process whose map has changed is
 * not walked in the kernel but by registers and stack bytes, which take room in the ring buffer.
 *
 * The promise is unwind.h's: no frame is wrong, and an incomplete stack says why. What limits it is said at
 * dwunw_bpf_add_process.
 *
 * Threads: one at a time per struct dwunw_bpf, whatever the function.
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
    /* A process that calls dwunw_get_stackid and was not added is added by the next poll. */
    DWUNW_BPF_ADD_UNKNOWN = 1u << 0,
    /* Do without, as if the kernel did not have it. */
    DWUNW_BPF_NO_LOOP = 1u << 1,         /* bpf_loop: stacks end at DWUNW_BPF_MAX_FRAMES_OLD frames in the kernel */
    DWUNW_BPF_NO_TASK_STORAGE = 1u << 2, /* the state of a walk lies in a hash by thread */
    DWUNW_BPF_NO_LINKER_PROBE = 1u << 3, /* changes by the dynamic linker are seen by executable pages alone */
    /* For a program that does without, in a build that includes dwunw.bpf.h: nothing is walked, the verifier passes
       over all of it, and its maps have their least size. Such an object is not started. dwunw_calls.bpf.h works as
       ever. */
    DWUNW_BPF_OFF = 1u << 4,
};

/* 0 in a field: the default. */
struct dwunw_bpf_options {
    uint32_t size;
    uint32_t flags;
    uint32_t pool_bytes;       /* tables of all modules together; 8 MiB */
    uint32_t mappings;         /* executable mappings of all processes together; 16,384 */
    uint32_t processes;        /* 1,024 */
    uint32_t ring_bytes;       /* a power of two of pages; 4 MiB */
    uint32_t stack_ids;        /* that the kernel remembers to have sent; more are sent again; 32,768 */
    uint32_t slice_bytes;      /* of stack, for a walk in user space; at most and by default 64 KiB */
    uint32_t threads;          /* that have a walk's or a call's state at once, without task storage; 1,024 */
    uint32_t path_limit;       /* new stacks a second for user space behind one path of frames; 256 */
    uint32_t first_generation; /* of published maps; for tests of their coming round; 1 */
    uint32_t kept_bytes;       /* of stacks that dwunw_bpf_lookup knows, together and about; 256 MiB */
};

/*
 * Between the object's open and its load: finds out what the kernel can do and sizes the maps. `options` may be NULL.
 * Errors: DWUNW_ERR_INVALID_ARGUMENT (also: the object does not include dwunw.bpf.h), DWUNW_ERR_PERMISSION,
 * DWUNW_ERR_LOCKED_DOWN (lockdown=confidentiality), DWUNW_ERR_NO_BTF, DWUNW_ERR_BPF (no ring buffer: Linux before 5.8),
 * DWUNW_ERR_PID_NAMESPACE (/proc is not mounted, or not for the caller's pid namespace). Allocates.
 */
dwunw_status dwunw_bpf_open(struct dwunw_context *context, struct bpf_object *object,
                            const struct dwunw_bpf_options *options, struct dwunw_bpf **out);

/* Behind the object's load. DWUNW_ERR_BPF: errno tells why; DWUNW_ERR_INVALID_ARGUMENT: DWUNW_BPF_OFF, or a program
   that is no uprobe or kprobe calls dwunw_get_stackid, whose ctx is then no pt_regs: dwunw_bpf_describe names it. */
dwunw_status dwunw_bpf_start(struct dwunw_bpf *bpf);

/*
 * Compiles and publishes the tables of a process: some milliseconds for each MiB of call-frame information that no
 * process before it had. Errors: dwunw_process_open's; DWUNW_ERR_LIMIT (more processes than `processes`), and
 * DWUNW_ERR_BPF. A process already added is looked at again.
 *
 * A process's map is watched by three signs: the dynamic linker (glibc's and musl's tell debuggers of every dlopen and
 * dlclose), the number of executable pages, exec. What none of them shows is code that a program itself puts in the
 * place of other code of the same size between two stacks, past the dynamic linker. Number: the one in the caller's pid
 * namespace, where the process may also be of a namespace within that one.
 */
dwunw_status dwunw_bpf_add_process(struct dwunw_bpf *bpf, int32_t pid);
void dwunw_bpf_remove_process(struct dwunw_bpf *bpf, int32_t pid);

/* The process, for dwunw_process_* and symbols; NULL: not added. Belongs to `bpf`. */
struct dwunw_process *dwunw_bpf_process(struct dwunw_bpf *bpf, int32_t pid);

/*
 * Since when (CLOCK_MONOTONIC, as bpf_ktime_get_ns) the process's map has shown no sign of a change: code addresses
 * that were noted from then on mean now what they did. It is the time of the first call behind the last such sign, so
 * call it often. Then it also looks at the map again. Errors: DWUNW_ERR_NOT_FOUND (not added, or its exit was taken
 * in), dwunw_bpf_add_process's; there, too, are the signs.
 */
dwunw_status dwunw_bpf_unchanged_since(struct dwunw_bpf *bpf, int32_t pid, uint64_t *since_ns);

/*
 * Takes in what the kernel has sent, waiting up to timeout_ms for something (0: not at all); *taken (may be NULL)
 * becomes how many records that were. Ends after some thousand records or a fifth of a second, however many follow.
 * DWUNW_ERR_BPF: errno tells why, EINTR after a signal. Allocates.
 */
dwunw_status dwunw_bpf_poll(struct dwunw_bpf *bpf, int timeout_ms, size_t *taken);

/* A descriptor that is readable when there is something to take in. */
int dwunw_bpf_epoll_fd(const struct dwunw_bpf *bpf);

struct dwunw_bpf_stack {
    uint32_t size;
    int32_t pid;
    dwunw_status status; /* DWUNW_OK: complete; otherwise why the walk stopped */
    uint32_t reason;     /* enum dwunw_bpf_reason: why it was not finished in the kernel; 0: it was */
    uint64_t id;         /* the first id of a stack of the same frames, this one or another */
    uint64_t count;      /* of frames, however many there was room for */
};

/*
 * A stack's frames, innermost first, up to max_frames of them; their `sp` and `cfa` are 0: those differ from call to
 * call. DWUNW_ERR_NOT_FOUND: no such id, or its record is still to be polled. DWUNW_ERR_LIMIT: its frames found no room
 * within kept_bytes. Allocates nothing.
 */
dwunw_status dwunw_bpf_lookup(const struct dwunw_bpf *bpf, uint64_t id, struct dwunw_bpf_stack *stack,
                              struct dwunw_frame *frames, size_t max_frames);

/* Calls `visit` for every id there is; not to call into `bpf` except for dwunw_bpf_lookup. */
void dwunw_bpf_each_stack(const struct dwunw_bpf *bpf, void (*visit)(void *arg, uint64_t id), void *arg);

/*
 * Forgets stacks that the caller has no use for any more; without it they are kept until kept_bytes are full. `ids`:
 * all that the caller has, in any order, those that its BPF programs have stored included. Forgotten is what was in the
 * list neither of this call nor of the one before, and did not come again in between: so an id that a program was about
 * to store while a list was made is in the next one. Calls should be as far apart as a program may hold an id before it
 * is where the caller finds it: seconds. Allocates.
 */
dwunw_status dwunw_bpf_retain(struct dwunw_bpf *bpf, const uint64_t *ids, size_t count);

/* The reasons that dwunw_bpf_counters has room for: more than DWUNW_BPF_REASONS, so that a new one moves no field. */
#define DWUNW_BPF_REASON_ROOM 32

struct dwunw_bpf_counters {
    uint32_t size;
    uint32_t reserved;
    uint64_t walks;                          /* calls of dwunw_get_stackid */
    uint64_t reasons[DWUNW_BPF_REASON_ROOM]; /* by enum dwunw_bpf_reason: [0] complete in the kernel; up to
                                                DWUNW_BPF_LAST_FALLBACK left to user space; the others without an id */
    uint64_t frames;                         /* found in the kernel */
    uint64_t cache_misses;                   /* frames whose rule had to be looked up in a table */
    uint64_t trampoline_frames;              /* repaired from a pending return */
    uint64_t new_stacks;                     /* records with frames */
    uint64_t user_walks;                     /* records with registers and stack bytes */
    uint64_t deduplicated;                   /* stacks for user space that it had already */
    uint64_t failed_inserts;                 /* ids that could not be noted as sent */
    uint64_t process_requests;               /* looks at a process's map that the kernel asked for */
    uint64_t requests_dropped;               /* requests that found the ring buffer full; made again */
    uint64_t linker_events;                  /* changes that the dynamic linker announced, and exec */
    uint64_t lost_calls;                     /* dwunw_calls.bpf.h: entries there was no memory for */
    uint64_t publications;
    uint64_t user_walks_complete;
    uint64_t user_walks_stale; /* ended with DWUNW_ERR_MODULE_CHANGED: the map had changed in between */
    uint64_t stacks;           /* ids known here */
    uint64_t id_collisions;    /* an id that came with other frames than before; the first ones stay */
    uint64_t records_malformed;
    uint64_t lost_to_memory; /* records there was no memory for, or no room within kept_bytes */
    uint64_t modules;        /* tables in the pool */
    uint64_t modules_without_room;
    uint64_t rules_left_to_user; /* of the tables in the pool: rules that the kernel does not carry out */
    uint64_t pool_bytes;
    uint64_t pool_bytes_used;
    uint64_t mappings_used;
    uint64_t memory_bytes;      /* of all maps of this kind in the kernel, about */
    uint64_t other_stack_calls; /* dwunw_calls.bpf.h: calls that were left alone, because another one may be pending on
                                   another stack of the thread */
    uint64_t abandoned_calls;   /* dwunw_calls.bpf.h: pending calls that were left without a return, e.g. by longjmp */
    uint64_t user_walks_then;   /* with the map as it had been at the stack's moment */
    uint64_t kept_bytes;        /* of stacks and ids here, about */
    uint64_t distinct_stacks;   /* kept */
    uint64_t forgotten;         /* ids, by dwunw_bpf_retain */
    uint64_t map_records;       /* executable mappings that came, in all processes of the machine */
    uint64_t map_record_losses; /* times that some of them were lost: until the map has been read again, stacks that are
                                   walked here need it to be as it was */
};
dwunw_status dwunw_bpf_get_counters(const struct dwunw_bpf *bpf, struct dwunw_bpf_counters *out);

/* What a reason means, static. Thread-safe. */
const char *dwunw_bpf_reason_string(uint32_t reason);

/* What was chosen and why, a line each, NUL-terminated; as snprintf returns, the length it would have. */
size_t dwunw_bpf_describe(const struct dwunw_bpf *bpf, char *buffer, size_t size);

void dwunw_bpf_close(struct dwunw_bpf *bpf);

#ifdef __cplusplus
}
#endif

#endif
