/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Finds the cheapest instruction for a uprobe at a function's beginning.
 *
 *     free:    test rdi, rdi        offset 0: the kernel single-steps it, 10 to 14 µs a call (in a virtual machine)
 *              jz   …               offset 3: the kernel emulates it, 0.7 µs: place the probe here
 *
 * A uprobe is a trap. The kernel then emulates the instruction under the trap, or single-steps it through a second
 * trap. Single-stepping costs ten to twenty times as much. On x86-64 the kernel emulates `push reg`, direct jumps,
 * conditional jumps, direct calls, and `nop` (the multi-byte form since Linux 6.18). The library takes the 5-byte nop
 * only at a function's first byte: Linux 6.18 rewrites it into a call, which overwrites the function's red zone.
 *
 * The library decodes the function's beginning and answers with the first emulated instruction, if a probe there sees
 * what a probe at the entry sees: each call once, with the same argument registers, SP and return address. The code
 * must prove this; otherwise the answer is the entry. The probe may pass over an instruction only if the instruction
 *   - writes no register but rax, r10, r11, the flags, and argument registers that the caller declares unused;
 *   - neither reads nor writes memory (but see DWUNW_PROBE_SKIP_MODULE_READS), cannot fault, and continues at the next
 *     instruction.
 * Nothing else may enter the code behind the entry, up to and including the answer:
 *   - no branch in the function. The library decodes the function to its end. The answer is the entry if it finds bytes
 *     that are not instructions, a branch into the middle of an instruction, or an indirect jump other than through the
 *     file's .got;
 *   - no landing pad of an exception, and no other symbol;
 *   - no jump or call with a 32-bit displacement, and no lea, anywhere in the file's code. A function's `.cold` part
 *     jumps back with such a jump.
 * The library does not look for a short jump (within 128 bytes) from another function, nor for addresses computed at
 * run time. Compilers write neither into another function's first instructions; hand-written assembly could.
 *
 * rax, r10 and r11 hold no argument that BPF's PT_REGS_PARM macros read: rax tells variadic functions the number of
 * vector registers, r10 is the static chain of nested functions. The unwind table also covers the answer's address, so
 * stacks are exact there.
 *
 * Optional: link libdwunw_bpf.a, with libdwunw.a and Zydis.
 */
#ifndef DWUNW_PROBE_PLACEMENT_H
#define DWUNW_PROBE_PLACEMENT_H

#include <dwunw/dwunw_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_module; /* process.h */

/* dwunw_probe_options.flags */
enum {
    /* Always answer the entry. */
    DWUNW_PROBE_AT_ENTRY = 1u << 0,
    /* Also pass over instructions that read the module's own data by rip-relative address, inside its loaded segments.
       They change nothing, and they fault only if the target has unmapped its own data. */
    DWUNW_PROBE_SKIP_MODULE_READS = 1u << 1,
};

/* dwunw_probe_options.arguments counts argument registers in this order: rdi rsi rdx rcx r8 r9. */
#define DWUNW_PROBE_MAX_ARGUMENTS 6

struct dwunw_probe_options {
    uint32_t size;
    uint32_t flags;
    uint32_t arguments; /* the number that the probe reads; the others are declared unused. 0: the probe reads all */
    uint32_t kernel;    /* the kernel that runs the probe: major << 16 | minor << 8 | patch; 0: the running kernel */
};

enum dwunw_probe_why {
    DWUNW_PROBE_ENTRY_IS_EMULATED = 1, /* nothing to pass over */
    DWUNW_PROBE_MOVED = 2,             /* offset is not 0 */
    DWUNW_PROBE_ENTRY_WAS_ASKED = 3,   /* DWUNW_PROBE_AT_ENTRY */
    DWUNW_PROBE_NOT_HARMLESS = 4,      /* an instruction before the first emulated one may not be passed over */
    DWUNW_PROBE_OTHER_WAY_IN = 5,      /* a branch, landing pad, symbol, or code elsewhere enters behind the entry */
    DWUNW_PROBE_CODE_UNCLEAR = 6,      /* undecodable bytes, indirect jumps, size unknown or beyond the limit */
    DWUNW_PROBE_NONE_EMULATED = 7,     /* no emulated one among the first instructions, or before the function's end */
};

struct dwunw_probe_placement {
    uint32_t size;
    uint32_t why;          /* enum dwunw_probe_why */
    uint64_t offset;       /* of the probe, from the function's first byte */
    uint64_t link_address; /* of the probe, in the ELF file's addresses; from dwunw_probe_place_code: `offset` */
    uint64_t file_offset;  /* of the probe, for perf_event_open and BPF_LINK_CREATE; likewise */
    uint32_t emulated;     /* 1: the kernel emulates the instruction there; 0: it is single-stepped */
    uint32_t reserved;
    char reason[192]; /* in words, NUL-terminated, e.g. "offset 3: jz, emulated; passed over `test rdi, rdi`" */
};

/* An ELF file's symbols and code. Thread-safe once open. */
struct dwunw_probe_file;

/* Opens a file by path, and reads its symbol tables. DWUNW_ERR_NO_FILE, DWUNW_ERR_PERMISSION, DWUNW_ERR_NOT_ELF,
   DWUNW_ERR_ELF_MALFORMED, DWUNW_ERR_UNSUPPORTED_ARCH (not x86-64), DWUNW_ERR_LIMIT. */
dwunw_status dwunw_probe_file_open(const char *path, struct dwunw_probe_file **out);
/* The same for a process's module. The module must outlive the probe file. */
dwunw_status dwunw_probe_file_open_module(const struct dwunw_module *module, struct dwunw_probe_file **out);
void dwunw_probe_file_close(struct dwunw_probe_file *file);

/*
 * The three functions below fill `out` when they return DWUNW_OK. A placement at the entry is not an error. `options`
 * may be NULL: all zero. They allocate. They decode the function; if the probe can move, they also read the file's code
 * once (0.5 ms for each MB).
 *
 * By symbol: a function's name without its version. If several functions have the name, the default version comes
 * first, then a global, a weak, a local symbol. DWUNW_ERR_NOT_FOUND: there is no such function, or several different
 * ones of equal rank. Other errors as from dwunw_probe_place_address.
 */
dwunw_status dwunw_probe_place_symbol(const struct dwunw_probe_file *file, const char *symbol,
                                      const struct dwunw_probe_options *options, struct dwunw_probe_placement *out);

/* By the function's link address and size; size 0: the size of the symbol at that address, if there is one.
   DWUNW_ERR_NO_MAPPING: no executable segment holds the function. DWUNW_ERR_IO: the file has become shorter. */
dwunw_status dwunw_probe_place_address(const struct dwunw_probe_file *file, uint64_t link_address,
                                       uint64_t function_size, const struct dwunw_probe_options *options,
                                       struct dwunw_probe_placement *out);

/* By a whole function's bytes. Bytes alone do not show landing pads, symbols, code elsewhere, or which jumps go through
   the .got. The caller promises that nothing outside these bytes jumps behind the entry. */
dwunw_status dwunw_probe_place_code(const void *code, size_t code_size, const struct dwunw_probe_options *options,
                                    struct dwunw_probe_placement *out);

enum dwunw_probe_result {
    DWUNW_PROBE_RESULT_IN_RAX = 0,
    DWUNW_PROBE_RESULT_IN_RDI =
        1, /* the instruction is a jump to memset or memcpy, which return their first argument */
};

struct dwunw_probe_return {
    uint64_t file_offset;
    uint32_t result; /* enum dwunw_probe_result */
    uint32_t reserved;
};

/*
 * Finds the instructions at which a function returns, in ascending order.
 *
 * The answer has every return instruction that a call can reach after it has passed the instruction at `probe_offset`
 * (dwunw_probe_placement.file_offset). It includes the return instructions of functions that this function jumps to at
 * its end. At each of them SP equals SP at the entry. Uprobes on all of them see every return and change nothing in the
 * program. A return probe, in contrast, replaces the return address.
 *
 * Stores at most `max` of them and sets *count to the number there are. The library follows a jump through the .got to
 * one of the file's own symbols. If another file of the program defines the same symbol, the program runs that
 * definition, and its returns are not seen.
 *
 * DWUNW_ERR_NOT_FOUND: not all can be known, or there is none; `reason` (may be NULL) receives why, NUL-terminated,
 * e.g. "`jmp rax` at 0x1d40 may lead anywhere". Allocates. Decodes the function.
 */
dwunw_status dwunw_probe_find_returns(const struct dwunw_probe_file *file, uint64_t probe_offset,
                                      struct dwunw_probe_return *returns, size_t max, size_t *count, char *reason,
                                      size_t reason_size);

#ifdef __cplusplus
}
#endif

#endif
