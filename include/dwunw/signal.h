/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Walking a stack in a signal handler, as a profiler of its own process does.
 *
 * Three kinds of functions of this library may be called in a signal handler: dwunw_signal_capture, the converters
 * dwunw_regset_from_… (unwind.h), and dwunw_status_string. No other: they allocate and lock, and the interrupted thread
 * may be in malloc, or hold the lock. dwunw_capture in a handler that interrupts malloc waits for ever.
 *
 *     before     dwunw_signal_tables_open()         opens the modules, compiles and keeps their tables
 *     handler    dwunw_regset_from_x86_64_signal_context()
 *                dwunw_signal_capture()             DWUNW_OK: the whole stack
 *                                                   DWUNW_ERR_WOULD_BLOCK: dwunw_capture may know more. Copy the
 *                                                   registers and the stack's bytes, from DWUNW_RED_ZONE below SP
 *                                                   upward, to memory that was allocated before
 *     later      dwunw_capture()                    on any thread outside of handlers: the copies
 *
 * Without the first two steps every stack goes by its copy; that works in any handler, too.
 */
#ifndef DWUNW_SIGNAL_H
#define DWUNW_SIGNAL_H

#include <dwunw/process.h>
#include <dwunw/unwind.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_signal_tables;

/*
 * Reads the process's map, opens every module that has code in it, and compiles their tables: some milliseconds for
 * each MiB of call-frame information that is not compiled yet. The tables stay until dwunw_signal_tables_close, beside
 * the budget of dwunw_config. A module without usable call-frame information is left out.
 *
 * The handle is of the map as it is now. What is loaded later is not in it: stacks through it are
 * DWUNW_ERR_WOULD_BLOCK, until the caller opens another handle. Errors: dwunw_process_refresh's,
 * DWUNW_ERR_MODULE_CHANGED (the map does not hold still), DWUNW_ERR_TOO_MANY_FILES. Allocates. Thread-safe.
 */
dwunw_status dwunw_signal_tables_open(struct dwunw_process *process, struct dwunw_signal_tables **out);

/*
 * As dwunw_capture for a stack of that process: every frame is the same (`source` may be DWUNW_SOURCE_CFI where
 * dwunw_capture says DWUNW_SOURCE_INTERPRETER). Neither allocates nor locks: async-signal-safe and thread-safe. Keeps
 * errno. Costs a table lookup a frame, and, every 10 ms, two system calls for each module that the stack goes through:
 * is it still mapped, and is it the same file?
 *
 * `request` is dwunw_capture's, with the process that `tables` was opened for. The walk reads the slice alone:
 * `stack` may be the interrupted thread's stack itself, at stack_addr, if `stack_size` ends where the stack does.
 * read_memory, pending_returns and options are not used, and have to be 0.
 *
 * Returns DWUNW_OK, DWUNW_ERR_SLICE_EXHAUSTED and DWUNW_ERR_FRAME_LIMIT as dwunw_capture does. DWUNW_ERR_WOULD_BLOCK: a
 * frame needs more than a table, such as signal frames, code without call-frame information or a module that is not in
 * `tables`, or its module cannot be verified. Before Linux 6.11 nothing can be verified without reading the map again:
 * there, a handle serves for a quarter of a second. The frames until then are written. dwunw_process_get_counters
 * counts these captures, too.
 */
dwunw_status dwunw_signal_capture(const struct dwunw_signal_tables *tables, const struct dwunw_unwind_request *request,
                                  size_t *written);

/* Before the dwunw_process_close of its process, and not while a handler may use it. */
void dwunw_signal_tables_close(struct dwunw_signal_tables *tables);

#ifdef __cplusplus
}
#endif

#endif
