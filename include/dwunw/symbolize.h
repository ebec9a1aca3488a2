/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Names for frames, from the process's own files: .symtab, .dynsym, and separate or embedded debug files that elfutils'
 * libdw finds by build-id. An optional component: link libdwunw_symbolize.a, libdw and liblzma.
 */
#ifndef DWUNW_SYMBOLIZE_H
#define DWUNW_SYMBOLIZE_H

#include <dwunw/dwunw_api.h>
#include <dwunw/unwind.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_symbolizer;

/* Not thread-safe: one symbolizer, one thread at a time. Files are read when a frame first falls into them. Close it
   before the dwunw_shutdown of the context whose frames it names: it knows modules by their handles. */
dwunw_status dwunw_symbolizer_open(struct dwunw_symbolizer **out);
void dwunw_symbolizer_close(struct dwunw_symbolizer *symbolizer);

struct dwunw_symbol {
    uint32_t size;
    uint32_t reserved;
    const char *name;     /* demangled where it was mangled, without a symbol version ("@GLIBC_2.34") */
    const char *raw_name; /* as in the symbol table */
    uint64_t offset;      /* of the frame's pc from the symbol's start; may equal its size for a return address */
};

/* Names a frame. The strings live until dwunw_symbolizer_close. DWUNW_ERR_NOT_FOUND: the module has no symbol there;
   DWUNW_ERR_NO_MAPPING: the frame has no module; else why the module's symbols cannot be read, which is remembered:
   DWUNW_ERR_LIMIT where a file's tables are more than 512 MiB, all files' more than 1 GiB, or .gnu_debugdata would
   become more than 32 times what it is.
   Return addresses are looked up at pc − 1, as the frame's flags tell. */
dwunw_status dwunw_symbolize_frame(struct dwunw_symbolizer *symbolizer, const struct dwunw_frame *frame,
                                   struct dwunw_symbol *out);

#ifdef __cplusplus
}
#endif

#endif
