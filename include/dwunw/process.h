/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Processes, their mappings and modules, and (when asked) their stopped threads.
 *
 * A module's file is opened by /proc/PID/map_files, then /proc/PID/root, then its path, and checked against the
 * mapping; the vDSO and files that cannot be opened are read from /proc/PID/mem. Files are read with pread and held
 * open until dwunw_shutdown, one descriptor each, so that frames can be named after the target has exited.
 */
#ifndef DWUNW_PROCESS_H
#define DWUNW_PROCESS_H

#include <dwunw/dwunw_api.h>
#include <dwunw/unwind.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_process_options {
    uint32_t size;
    int32_t pid; /* a live process; 0: none, `maps` alone says what is mapped */
    /* NULL: read /proc/PID/maps. Otherwise a text in its format, NUL-terminated, copied; the files it names are opened
       by path unless a pid is given too. A path that does not begin with a slash is malformed. dwunw_process_refresh
       then changes nothing. */
    const char *maps;
    /* Where the files are that a map without a pid names; each may be NULL. The caller says so that these are the files
       that the process had: inodes are not compared then, and nothing else could be. */
    const char *exe;     /* the program's file, instead of the first path of the map */
    const char *sysroot; /* where the other paths begin, instead of / */
    /* May be NULL. With DWUNW_ERR_MAPS_MALFORMED it becomes the number of the line, counted from 1. */
    uint64_t *maps_error_line;
};

/*
 * Opens a process. Reads its map; modules are opened when a frame first falls into them. Errors: DWUNW_ERR_NO_PROCESS,
 * DWUNW_ERR_PERMISSION, DWUNW_ERR_MAPS_MALFORMED, DWUNW_ERR_INVALID_ARGUMENT (exe or sysroot beside a pid). A kernel
 * thread or a zombie has no map: it opens, and has no modules.
 */
dwunw_status dwunw_process_open(struct dwunw_context *context, const struct dwunw_process_options *options,
                                struct dwunw_process **out);

/* Reads the map again; dwunw_capture does it by itself when a PC is unknown. Thread-safe. If the process is gone:
   DWUNW_ERR_NO_PROCESS, and the last map stays in use. */
dwunw_status dwunw_process_refresh(struct dwunw_process *process);

/* Not while another thread uses the process. */
void dwunw_process_close(struct dwunw_process *process);

/* The module mapped at `address`; DWUNW_ERR_NO_MAPPING where there is none, or why its file cannot be used.
   `link_address` (may be NULL) receives the address in the module's ELF file. Thread-safe. */
dwunw_status dwunw_process_find_module(struct dwunw_process *process, uint64_t address,
                                       const struct dwunw_module **module, uint64_t *link_address);

/*
 * What is true of return addresses that somebody else found by following frame pointers, such as bpf_get_stackid:
 * innermost first, the first one being a return address too. DWUNW_OK only where each of them lies in executable memory
 * behind a call instruction, as the process is mapped now. Then `frames`, with room for `count`, holds them with their
 * modules, and *certain says how many of them, from the innermost on, are certain: the call-frame information
 * says that each step to those is one by frame pointer. Behind them, callers may have been left out.
 * Errors: DWUNW_ERR_NO_MAPPING, DWUNW_ERR_UPROBE_TRAMPOLINE, DWUNW_ERR_NOT_FOUND (no call ends there, or the code
 * cannot be read). Thread-safe.
 */
dwunw_status dwunw_process_check_frame_chain(struct dwunw_process *process, const uint64_t *addresses, size_t count,
                                             struct dwunw_frame *frames, size_t *certain);

/* The path the map shows, e.g. "/usr/bin/redis-server" or "[vdso]"; lives as long as the module. Thread-safe. */
const char *dwunw_module_path(const struct dwunw_module *module);

/* The GNU build-id; returns its length, 0 where there is none. *bytes lives as long as the module. Thread-safe. */
size_t dwunw_module_build_id(const struct dwunw_module *module, const uint8_t **bytes);

/* The size of the module's ELF image in bytes. */
uint64_t dwunw_module_size(const struct dwunw_module *module);

/* Reads the module's ELF image (file offsets), as pread does; returns the bytes read, at most `length`; 0 past the end
   or on error. Thread-safe. */
size_t dwunw_module_read(const struct dwunw_module *module, uint64_t offset, void *buffer, size_t length);

/* A descriptor of the module's file, owned by the module: do not close it, use pread only. −1 for an image that was
   read from memory. */
int dwunw_module_fd(const struct dwunw_module *module);

/* Counters of one process since it was opened. */
struct dwunw_process_counters {
    uint32_t size;
    uint32_t reserved;
    uint64_t captures;
    uint64_t complete; /* captures that returned DWUNW_OK */
    uint64_t frames;
    uint64_t frame_pointer_frames; /* frames found by a frame-pointer step */
    uint64_t trampoline_frames;    /* frames repaired from a pending return */
    uint64_t interpreter_walks;    /* walks that needed the full interpreter */
    uint64_t map_reads;
    uint64_t modules_failed;     /* distinct mapped files that could not be opened or had no usable ELF image */
    uint64_t unmentioned_frames; /* frames with DWUNW_FRAME_FLAG_CFA_UNMENTIONED */
    uint64_t no_code_frames;     /* frames with DWUNW_FRAME_FLAG_NO_CODE */
};
dwunw_status dwunw_process_get_counters(const struct dwunw_process *process, struct dwunw_process_counters *out);

/* The memory of a live process as a dwunw_read_memory_fn; `arg` is a struct dwunw_process opened with a pid. */
size_t dwunw_process_read_memory(void *arg, uint64_t address, void *buffer, size_t length);

/*
 * Stopping a process: the one thing here that disturbs the target, and only because the caller asks. Every thread is
 * seized with ptrace and interrupted (a process that is stopped already stays so afterwards); it runs on at
 * dwunw_process_resume, or when the calling program ends. Stop and resume from one thread: ptrace belongs to it.
 * Anything else is for any thread, and for a child of that thread (fork): a process can make whoever reads its memory
 * or its files wait for ever (FUSE, userfaultfd), and then only a thread that does not read can resume it.
 */
struct dwunw_stopped;

struct dwunw_thread {
    uint32_t size;
    int32_t tid;
    char name[16]; /* comm, NUL-terminated */
    struct dwunw_regset regs;
};

/* Also reads the map again, now that it holds still. Errors: DWUNW_ERR_NO_PROCESS, DWUNW_ERR_PERMISSION (also when
   another tracer is attached). Allocates. */
dwunw_status dwunw_process_stop(struct dwunw_process *process, struct dwunw_stopped **out);
/* The same for a thread that must not be made to wait: it waits no longer than `patience` nanoseconds for threads that
   do not stop (the other function takes 5 s), and does not read the map again, for which there is
   dwunw_process_refresh. */
dwunw_status dwunw_process_stop_threads(struct dwunw_process *process, uint64_t patience, struct dwunw_stopped **out);
size_t dwunw_stopped_thread_count(const struct dwunw_stopped *stopped);
/* Threads in ascending tid order. tid and name are filled even for one without registers: DWUNW_ERR_NO_PROCESS (it
   ended meanwhile), DWUNW_ERR_REGISTER_UNKNOWN (in an uninterruptible wait in the kernel, it does not stop),
   DWUNW_ERR_UNSUPPORTED_ARCH (not 64-bit code). */
dwunw_status dwunw_stopped_thread(const struct dwunw_stopped *stopped, size_t index, struct dwunw_thread *out);
void dwunw_process_resume(struct dwunw_stopped *stopped);

#ifdef __cplusplus
}
#endif

#endif
