/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Processes, their mappings and modules, and their stopped threads.
 *
 * The library opens a module's file through /proc/PID/map_files, then /proc/PID/root, then its path, and checks the
 * file against the mapping. It reads the vDSO, and files that it cannot open, from /proc/PID/mem. Files are read with
 * pread and stay open until dwunw_shutdown, one descriptor each, so that frames can be named after the target has
 * exited.
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
    int32_t pid; /* a live process; 0: no process, only `maps` */
    /* NULL: the library reads /proc/PID/maps. Otherwise a NUL-terminated text in the same format; the library copies
       it. Without a pid, the files that the text names are opened by path. A path that does not begin with a slash is
       malformed. With this text, dwunw_process_refresh changes nothing. */
    const char *maps;
    /* The two fields below say where to find the files that a map without a pid names. Each may be NULL. The caller
       promises that these are the files that the process had: the library does not compare their inodes. */
    const char *exe;     /* the program's file, instead of the first path of the map */
    const char *sysroot; /* the root folder of the other paths, instead of / */
    /* May be NULL. With DWUNW_ERR_MAPS_MALFORMED it receives the number of the malformed line, counted from 1. */
    uint64_t *maps_error_line;
};

/*
 * Opens a process and reads its map. A module is opened when a frame first falls into it. Errors: DWUNW_ERR_NO_PROCESS,
 * DWUNW_ERR_PERMISSION, DWUNW_ERR_MAPS_MALFORMED, DWUNW_ERR_INVALID_ARGUMENT (`exe` or `sysroot` together with a pid).
 * A kernel thread or a zombie has no map: it opens without an error and has no modules.
 */
dwunw_status dwunw_process_open(struct dwunw_context *context, const struct dwunw_process_options *options,
                                struct dwunw_process **out);

/* Reads the map again. dwunw_capture does so itself when it meets an unknown pc. Thread-safe. DWUNW_ERR_NO_PROCESS: the
   process is gone, and the last map stays in use. */
dwunw_status dwunw_process_refresh(struct dwunw_process *process);

/* No other thread may use the process during this call. */
void dwunw_process_close(struct dwunw_process *process);

/* Finds the module that is mapped at `address`. DWUNW_ERR_NO_MAPPING: there is none; other errors say why the module's
   file cannot be used. `link_address` (may be NULL) receives the address in the module's ELF file. Thread-safe. */
dwunw_status dwunw_process_find_module(struct dwunw_process *process, uint64_t address,
                                       const struct dwunw_module **module, uint64_t *link_address);

/*
 * Checks return addresses that another walk found by following frame pointers, such as bpf_get_stackid's.
 *
 * `addresses` holds `count` return addresses, innermost first. DWUNW_OK: each lies in executable memory behind a call
 * instruction, by the process's present mappings. Then `frames`, an array of `count`, holds them with their modules,
 * and *certain is the number of certain ones, counted from the innermost: the call-frame information says that the step
 * to each of these is a frame-pointer step. Between later ones, callers may be missing.
 * Errors: DWUNW_ERR_NO_MAPPING, DWUNW_ERR_UPROBE_TRAMPOLINE, DWUNW_ERR_NOT_FOUND (no call instruction ends at an
 * address, or the code cannot be read). Thread-safe.
 */
dwunw_status dwunw_process_check_frame_chain(struct dwunw_process *process, const uint64_t *addresses, size_t count,
                                             struct dwunw_frame *frames, size_t *certain);

/* The path that the map shows, e.g. "/usr/bin/redis-server" or "[vdso]". Lives as long as the module. Thread-safe. */
const char *dwunw_module_path(const struct dwunw_module *module);

/* The GNU build-id. Returns its length in bytes; 0: the module has none. *bytes lives as long as the module.
   Thread-safe. */
size_t dwunw_module_build_id(const struct dwunw_module *module, const uint8_t **bytes);

/* The size of the module's ELF image in bytes. */
uint64_t dwunw_module_size(const struct dwunw_module *module);

/* Reads the module's ELF image at a file offset, as pread does. Returns the number of bytes read, at most `length`; 0
   past the end or on error. Thread-safe. */
size_t dwunw_module_read(const struct dwunw_module *module, uint64_t offset, void *buffer, size_t length);

/* A descriptor of the module's file. The module owns it: do not close it, and use only pread on it. −1: the image was
   read from memory. */
int dwunw_module_fd(const struct dwunw_module *module);

/* Counters of one process, from dwunw_process_open on. */
struct dwunw_process_counters {
    uint32_t size;
    uint32_t reserved;
    uint64_t captures;
    uint64_t complete; /* captures that returned DWUNW_OK */
    uint64_t frames;
    uint64_t frame_pointer_frames; /* frames found by a frame-pointer step */
    uint64_t trampoline_frames;    /* frames taken from a pending return */
    uint64_t interpreter_walks;    /* walks that needed the full interpreter */
    uint64_t map_reads;
    uint64_t modules_failed;     /* distinct mapped files that could not be opened or had no usable ELF image */
    uint64_t unmentioned_frames; /* frames with DWUNW_FRAME_FLAG_CFA_UNMENTIONED */
    uint64_t no_code_frames;     /* frames with DWUNW_FRAME_FLAG_NO_CODE */
};
dwunw_status dwunw_process_get_counters(const struct dwunw_process *process, struct dwunw_process_counters *out);

/* Reads the memory of a live process. A dwunw_read_memory_fn; `arg` is a struct dwunw_process opened with a pid. */
size_t dwunw_process_read_memory(void *arg, uint64_t address, void *buffer, size_t length);

/*
 * Stopping a process. These are the only functions in this header that disturb the target.
 *
 * The library seizes every thread with ptrace and interrupts it. The threads run on at dwunw_process_resume, or when
 * the calling program ends. A process that was stopped before stays stopped.
 *
 * Stop and resume from the same thread: ptrace ties the target to the thread that stopped it. Every other function may
 * run on any thread, also in a child (fork) of the stopping thread. This matters because a target can make a reader of
 * its memory or its files wait for ever (FUSE, userfaultfd). Then only a thread that does not read can resume it.
 */
struct dwunw_stopped;

struct dwunw_thread {
    uint32_t size;
    int32_t tid;
    char name[16]; /* comm, NUL-terminated */
    struct dwunw_regset regs;
};

/* Stops every thread and then reads the map again. Errors: DWUNW_ERR_NO_PROCESS, DWUNW_ERR_PERMISSION (also: another
   tracer is attached). Allocates. */
dwunw_status dwunw_process_stop(struct dwunw_process *process, struct dwunw_stopped **out);
/* The same without unbounded waits: waits at most `patience` nanoseconds for threads that do not stop
   (dwunw_process_stop waits 5 s), and does not read the map; dwunw_process_refresh does. */
dwunw_status dwunw_process_stop_threads(struct dwunw_process *process, uint64_t patience, struct dwunw_stopped **out);
size_t dwunw_stopped_thread_count(const struct dwunw_stopped *stopped);
/* Thread `index`, in ascending order of tid. `tid` and `name` are filled even if the registers are not known. Then the
   status says why: DWUNW_ERR_NO_PROCESS (the thread has ended), DWUNW_ERR_REGISTER_UNKNOWN (the thread is in an
   uninterruptible wait in the kernel and does not stop), DWUNW_ERR_UNSUPPORTED_ARCH (not 64-bit code). */
dwunw_status dwunw_stopped_thread(const struct dwunw_stopped *stopped, size_t index, struct dwunw_thread *out);
void dwunw_process_resume(struct dwunw_stopped *stopped);

#ifdef __cplusplus
}
#endif

#endif
