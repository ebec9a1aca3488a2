/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Names frames. The names come from the process's own files: .symtab, .dynsym, and separate or embedded debug files,
 * which elfutils' libdw finds by build-id. An optional component: link libdwunw_symbolize.a, libdw and liblzma.
 */
#ifndef DWUNW_SYMBOLIZE_H
#define DWUNW_SYMBOLIZE_H

#include <dwunw/dwunw_api.h>
#include <dwunw/unwind.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_symbolizer;

/* Not thread-safe: one thread at a time may use a symbolizer. It reads a file when a frame first falls into it. Close
   it before dwunw_shutdown of the context whose frames it names, because it keeps pointers to modules. */
dwunw_status dwunw_symbolizer_open(struct dwunw_symbolizer **out);
void dwunw_symbolizer_close(struct dwunw_symbolizer *symbolizer);

struct dwunw_symbol {
    uint32_t size;
    uint32_t reserved;
    const char *name;     /* demangled, without the symbol version ("@GLIBC_2.34") */
    const char *raw_name; /* as in the symbol table */
    uint64_t offset;      /* from the symbol's start to the frame's pc; of a return address it may equal its size */
};

/* Names a frame. The strings live until dwunw_symbolizer_close. Looks a return address up at pc − 1; the frame's
   flags tell which frames are return addresses.

   DWUNW_ERR_NOT_FOUND: the module has no symbol there. DWUNW_ERR_NO_MAPPING: the frame has no module. Any other error
   says why the module's symbols cannot be read; the symbolizer remembers it and does not try again. DWUNW_ERR_LIMIT: a
   file's symbol tables exceed 512 MiB, those of all files exceed 1 GiB, or .gnu_debugdata unpacks to more than 32 times
   its size. */
dwunw_status dwunw_symbolize_frame(struct dwunw_symbolizer *symbolizer, const struct dwunw_frame *frame,
                                   struct dwunw_symbol *out);

#ifdef __cplusplus
}
#endif

#endif
