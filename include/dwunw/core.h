/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Core files: walking the threads of one, and writing a small one of a live process.
 *
 * An ordinary ELF core (System V gABI, Linux's NT_PRSTATUS, NT_FILE, NT_AUXV notes), so that every other debugger and
 * unwinder can be the judge of ours on the same bytes. Reading takes what the kernel, gcore and dwunw_core_write write.
 * A core is input like any other: nothing in it is trusted.
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
    const char *sysroot; /* where the other modules' paths begin, instead of /; may be NULL */
};

/*
 * Opens a core file: its notes and segments are read now, modules when a frame first falls into them. A module's file
 * is used only if it is the one the process had: the build-id in the core's copy of its first page decides where there
 * is one, else the bytes of its mapped headers. Where the file cannot be had, DWUNW_ERR_NO_FILE or
 * DWUNW_ERR_MODULE_CHANGED ends the walk there, unless the core holds the module's text. The vDSO is read from the
 * core. Errors: DWUNW_ERR_NO_FILE, DWUNW_ERR_PERMISSION, DWUNW_ERR_NOT_ELF (also an ELF file that is no core),
 * DWUNW_ERR_ELF_MALFORMED, DWUNW_ERR_UNSUPPORTED_ARCH, DWUNW_ERR_LIMIT. Allocates.
 */
dwunw_status dwunw_core_open(struct dwunw_context *context, const struct dwunw_core_options *options,
                             struct dwunw_core **out);
void dwunw_core_close(struct dwunw_core *core);

/* The process as it was: for dwunw_unwind_request.process; with it, DWUNW_UNWIND_READ_PROCESS reads as
   dwunw_core_read_memory does. Belongs to the core. */
struct dwunw_process *dwunw_core_process(struct dwunw_core *core);

/* The process's number; its name as the kernel shows it (comm), "" where the core has none. */
int32_t dwunw_core_pid(const struct dwunw_core *core);
const char *dwunw_core_name(const struct dwunw_core *core);

/* Threads in the core's order: the first is the one that died, or the main thread. Thread-safe. */
size_t dwunw_core_thread_count(const struct dwunw_core *core);
dwunw_status dwunw_core_thread(const struct dwunw_core *core, size_t index, struct dwunw_thread *out);

/* The core's memory as a dwunw_read_memory_fn; `arg` is a struct dwunw_core. What the core leaves out of a mapped file
   is read from that file. Thread-safe. */
size_t dwunw_core_read_memory(void *arg, uint64_t address, void *buffer, size_t length);

struct dwunw_core_write_options {
    uint32_t size;
    uint32_t reserved;
    /* Of each thread's stack, from DWUNW_RED_ZONE below SP upward, in whole pages; 0: the whole stack. */
    uint64_t stack_bytes;
};

/*
 * Writes a core file of a process whose threads are stopped: registers of every thread, the file map, the auxiliary
 * vector, each thread's stack bytes, the vDSO, and the pages that say which files the modules are. `fd` is written from
 * its beginning, sequentially. A thread without registers (dwunw_stopped_thread says why) is left out. On any thread,
 * and in a child of the one that stopped the process. Errors: DWUNW_ERR_NO_PROCESS, DWUNW_ERR_LIMIT, DWUNW_ERR_WRITE
 * (errno tells why); where no thread has registers, its reason. Allocates.
 */
dwunw_status dwunw_core_write(struct dwunw_process *process, struct dwunw_stopped *stopped,
                              const struct dwunw_core_write_options *options, int fd);

#ifdef __cplusplus
}
#endif

#endif
