/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * dwunw: complete user-space call stacks from DWARF call-frame information.
 *
 * Conventions of every header in this folder
 *   Status     A function that can fail returns a dwunw_status. Results go through pointers, and are written only as
 *              each function says. No function prints, aborts, or throws across this interface.
 *   Handles    Opaque. dwunw_…_open makes a handle, dwunw_…_close ends it and accepts NULL. The exceptions: a context
 *              has dwunw_init and dwunw_shutdown, and two pairs are named for what they do to a target,
 *              dwunw_process_stop and dwunw_process_resume, dwunw_attach and dwunw_detach.
 *   Structs    The caller sets `size` to sizeof the struct and zeroes the rest. Later versions add fields at the end.
 *              The library accepts an older, smaller struct: a missing input field is zero, which is its default, and a
 *              missing result is not written. It accepts a newer, larger struct if every field that it does not know
 *              is zero. DWUNW_ERR_STRUCT_SIZE: `size` is below the struct's first version (doc/c_api.md), or no struct
 *              has it, or an unknown field is not zero. A reserved field that is not zero is
 *              DWUNW_ERR_INVALID_ARGUMENT. A struct without `size` never changes.
 *   Threads    No globals, no thread-local state. Many threads may capture in one context at once. A function that is
 *              not thread-safe says so.
 *   Units      Addresses and sizes are bytes, times nanoseconds.
 *
 * The order of calls: dwunw_init → dwunw_process_open (process.h) → dwunw_capture (unwind.h), any number of times →
 * dwunw_process_close → dwunw_shutdown.
 */
#ifndef DWUNW_DWUNW_API_H
#define DWUNW_DWUNW_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DWUNW_VERSION_MAJOR 0
#define DWUNW_VERSION_MINOR 1
#define DWUNW_VERSION_PATCH 0

/*
 * Every status, once: X(name, value, text). The values are part of the ABI: a new one goes at the end.
 * DWUNW_OK from dwunw_capture: the walk reached the outermost frame. Any other status is the reason why it stopped.
 */
#define DWUNW_STATUS_LIST(X)                                                                                           \
    X(DWUNW_OK, 0, "reached the root")                                                                                 \
    X(DWUNW_ERR_INVALID_ARGUMENT, 1, "invalid argument")                                                               \
    X(DWUNW_ERR_OUT_OF_MEMORY, 2, "out of memory")                                                                     \
    X(DWUNW_ERR_SLICE_EXHAUSTED, 3, "stack slice exhausted")                                                           \
    X(DWUNW_ERR_MEMORY_UNREADABLE, 4, "memory unreadable")                                                             \
    X(DWUNW_ERR_NO_MAPPING, 5, "no mapping at this address")                                                           \
    X(DWUNW_ERR_NO_CFI, 6, "no call-frame information")                                                                \
    X(DWUNW_ERR_CFI_MALFORMED, 7, "malformed call-frame information")                                                  \
    X(DWUNW_ERR_UNSUPPORTED_EXPRESSION, 8, "unsupported DWARF expression")                                             \
    X(DWUNW_ERR_NO_PROGRESS, 9, "no progress")                                                                         \
    X(DWUNW_ERR_FRAME_LIMIT, 10, "frame limit")                                                                        \
    X(DWUNW_ERR_UNSUPPORTED_ARCH, 11, "unsupported architecture")                                                      \
    X(DWUNW_ERR_REGISTER_UNKNOWN, 12, "register value unknown")                                                        \
    X(DWUNW_ERR_UPROBE_TRAMPOLINE, 13, "return address replaced by a pending uretprobe")                               \
    X(DWUNW_ERR_NOT_ELF, 14, "not an ELF file")                                                                        \
    X(DWUNW_ERR_ELF_MALFORMED, 15, "malformed ELF file")                                                               \
    X(DWUNW_ERR_NO_PROCESS, 16, "no such process")                                                                     \
    X(DWUNW_ERR_PERMISSION, 17, "permission denied")                                                                   \
    X(DWUNW_ERR_NO_FILE, 18, "no such file")                                                                           \
    X(DWUNW_ERR_IO, 19, "input/output error")                                                                          \
    X(DWUNW_ERR_MODULE_CHANGED, 20, "module file is not the one that is mapped")                                       \
    X(DWUNW_ERR_MAPS_MALFORMED, 21, "malformed process map")                                                           \
    X(DWUNW_ERR_TOO_MANY_FILES, 22, "too many open files")                                                             \
    X(DWUNW_ERR_LIMIT, 23, "larger than the limit")                                                                    \
    X(DWUNW_ERR_NOT_FOUND, 24, "not found")                                                                            \
    X(DWUNW_ERR_WRITE, 25, "cannot be written")                                                                        \
    X(DWUNW_ERR_BPF, 26, "refused by the kernel's BPF or by libbpf")                                                   \
    X(DWUNW_ERR_STACK_SWITCHED, 27, "the code has switched stacks, and its call-frame information does not say so")    \
    X(DWUNW_ERR_PID_NAMESPACE, 28, "/proc is of another pid namespace")                                                \
    X(DWUNW_ERR_NOT_EXECUTABLE, 29, "memory at this address is not executable")                                        \
    X(DWUNW_ERR_NO_BTF, 30, "the kernel has no BTF: /sys/kernel/btf/vmlinux is not there")                             \
    X(DWUNW_ERR_LOCKED_DOWN, 31, "the kernel is locked down (confidentiality): no BPF program may read its memory")    \
    X(DWUNW_ERR_STRUCT_SIZE, 32, "a struct is smaller than its first version, or sets fields that the library lacks")  \
    X(DWUNW_ERR_WOULD_BLOCK, 33, "needs memory or a lock, which a signal handler must not take")

typedef enum dwunw_status {
#define DWUNW_STATUS_ENUM(name, value, text) name = (value),
    DWUNW_STATUS_LIST(DWUNW_STATUS_ENUM)
#undef DWUNW_STATUS_ENUM
} dwunw_status;

/* A short text for a status: static, never NULL. Thread-safe. */
const char *dwunw_status_string(dwunw_status status);

/* Shared state: the compiled unwind tables. All processes that map the same file share one table. */
struct dwunw_context;

struct dwunw_config {
    uint32_t size;
    uint32_t reserved;
    /* Limits the memory of call-frame information and tables, in bytes; 0: 256 MiB. Beyond it, the library drops those
       of the least recently used module, and reads them again when a walk needs them. */
    uint64_t table_budget;
};

/* Makes a context. `config` may be NULL. Allocates; opens no file. The first big module starts a thread, which blocks
   signals and ends with the context. So a child of fork must not use a context that has met modules. */
dwunw_status dwunw_init(const struct dwunw_config *config, struct dwunw_context **out);

/* Waits until the background thread has compiled all its tables. Walks never wait for tables: this function is for
   measurements and for callers that read tables. Thread-safe. */
void dwunw_wait_for_tables(struct dwunw_context *context);

struct dwunw_context_counters {
    uint32_t size;
    uint32_t reserved;
    uint64_t modules;         /* distinct files and images met */
    uint64_t table_bytes;     /* call-frame information and tables held now */
    uint64_t tables_compiled; /* counts a table again when it is compiled again after an eviction */
    uint64_t tables_evicted;  /* modules whose tables were dropped for the budget */
    uint64_t tables_failed;   /* no memory for the table, or the file changed; walks read such a module's FDEs singly */
};
/* Thread-safe. */
dwunw_status dwunw_context_get_counters(const struct dwunw_context *context, struct dwunw_context_counters *out);

/* Ends a context. The caller must have closed every process opened in it. Pointers to its modules, as in dwunw_frame,
   end here. */
void dwunw_shutdown(struct dwunw_context *context);

#ifdef __cplusplus
}
#endif

#endif
