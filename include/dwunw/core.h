/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Core files: walks the threads of one, and writes a small one of a live process.
 *
 * The format is the ordinary ELF core (System V gABI; Linux's NT_PRSTATUS, NT_FILE and NT_AUXV notes), so that any
 * debugger or unwinder can check the result on the same bytes. The reader accepts what the kernel, gcore and
 * dwunw_core_write write. It trusts nothing in a core.
 */
#ifndef DWUNW_CORE_H
#define DWUNW_CORE_H

#include <dwunw/process.h>
#include <dwunw/unwind.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_core;

struct dwunw_core_options {
    uint32_t size;
    uint32_t reserved;
    const char *path;    /* the core file */
    const char *exe;     /* the program's file, instead of the path that the core names; may be NULL */
    const char *sysroot; /* the root folder of the other modules' paths, instead of /; may be NULL */
};

/*
 * Opens a core file and reads its notes and segments. A module is opened when a frame first falls into it.
 *
 * A module's file is used only if it is the file that the process had. The library compares the build-id in the core's
 * copy of the file's first page; without a build-id it compares the bytes of the mapped headers. If the file cannot be
 * used, a walk ends there with DWUNW_ERR_NO_FILE or DWUNW_ERR_MODULE_CHANGED, unless the core holds the module's text.
 * The vDSO is read from the core.
 *
 * Errors: DWUNW_ERR_NO_FILE, DWUNW_ERR_PERMISSION, DWUNW_ERR_NOT_ELF (also: an ELF file that is not a core),
 * DWUNW_ERR_ELF_MALFORMED, DWUNW_ERR_UNSUPPORTED_ARCH, DWUNW_ERR_LIMIT. Allocates.
 */
dwunw_status dwunw_core_open(struct dwunw_context *context, const struct dwunw_core_options *options,
                             struct dwunw_core **out);
void dwunw_core_close(struct dwunw_core *core);

/* The process in the core, for dwunw_unwind_request.process. With it, DWUNW_UNWIND_READ_PROCESS reads as
   dwunw_core_read_memory does. The core owns it. */
struct dwunw_process *dwunw_core_process(struct dwunw_core *core);

/* The process's number, and its name as the kernel shows it (comm; "" if the core has none). */
int32_t dwunw_core_pid(const struct dwunw_core *core);
const char *dwunw_core_name(const struct dwunw_core *core);

/* Threads in the core's order: the first is the thread that died, or the main thread. Thread-safe. */
size_t dwunw_core_thread_count(const struct dwunw_core *core);
dwunw_status dwunw_core_thread(const struct dwunw_core *core, size_t index, struct dwunw_thread *out);

/* Reads the core's memory. A dwunw_read_memory_fn; `arg` is a struct dwunw_core. Parts of a mapped file that the core
   leaves out are read from that file. Thread-safe. */
size_t dwunw_core_read_memory(void *arg, uint64_t address, void *buffer, size_t length);

struct dwunw_core_write_options {
    uint32_t size;
    uint32_t reserved;
    /* Bytes to write of each thread's stack, from DWUNW_RED_ZONE below SP upward, in whole pages; 0: the whole stack */
    uint64_t stack_bytes;
};

/*
 * Writes a core file of a process whose threads are stopped. The core holds every thread's registers and stack bytes,
 * the file map, the auxiliary vector, the vDSO, and the pages that identify the modules' files. Writes to `fd`
 * sequentially, from the start of the core. Leaves out a thread without registers (dwunw_stopped_thread says why it has
 * none). May run on any thread, and in a child of the thread that stopped the process.
 *
 * Errors: DWUNW_ERR_NO_PROCESS, DWUNW_ERR_LIMIT, DWUNW_ERR_WRITE (errno tells why); if no thread has registers, the
 * reason why. Allocates.
 */
dwunw_status dwunw_core_write(struct dwunw_process *process, struct dwunw_stopped *stopped,
                              const struct dwunw_core_write_options *options, int fd);

#ifdef __cplusplus
}
#endif

#endif
