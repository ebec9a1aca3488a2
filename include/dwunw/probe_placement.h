/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Where to put a uprobe at a function's beginning so that it costs little. A uprobe is a trap; what the kernel then
 * does with the instruction under it makes the price: some it emulates, any other it single-steps, through a second
 * trap, which is ten to twenty times as dear (in a virtual machine: 0.7 µs and 10 to 14). On x86-64 the kernel emulates
 * `push reg`, direct jumps, conditional ones and calls, and `nop` (the multi-byte form since Linux 6.18).
 *
 * A function's beginning is decoded, and the answer is the first instruction that is emulated, provided that a probe
 * there sees what one at the entry would: each call once, with the same argument registers, SP and return address. That
 * has to be proved from the code; where it is not, the answer is the entry. An instruction is passed over only if it
 *   - writes no register but rax, r10, r11, the flags, and argument registers that the caller says are none;
 *   - neither reads nor writes memory (see DWUNW_PROBE_SKIP_MODULE_READS), cannot fault, and goes on to the next;
 * and nothing else may enter between the entry and the answer, or at the answer:
 *   - no branch in the function, which is decoded to its end: bytes that are no instructions, a branch into an
 *     instruction's middle, and an indirect jump other than through the file's .got all mean the entry;
 *   - no landing pad of an exception, no other symbol;
 *   - no jump or call with a 32-bit displacement, and no lea, anywhere in the file's code, such as a function's `.cold`
 *     part jumps back with.
 * What is not looked for: a short jump (within 128 bytes) from another function, and addresses computed at run time.
 * Compilers write neither into another function's first instructions; hand-written assembly could.
 *
 * rax, r10 and r11 hold no argument that BPF's PT_REGS_PARM macros read: rax tells variadic functions the number of
 * vector registers, r10 is nested functions' static chain. An unwind table has the rules of the answer's address, so
 * stacks are exact there, too.
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
    /* Answer the entry, whatever is there. */
    DWUNW_PROBE_AT_ENTRY = 1u << 0,
    /* Also pass over instructions that read the module's own data by rip-relative address, inside its loaded segments:
       they change nothing and do not fault unless the target unmapped its own data. */
    DWUNW_PROBE_SKIP_MODULE_READS = 1u << 1,
};

/* dwunw_probe_options.arguments: the function's integer arguments are in registers 1 … 6, in this order: rdi rsi rdx
   rcx r8 r9. */
#define DWUNW_PROBE_MAX_ARGUMENTS 6

struct dwunw_probe_options {
    uint32_t size;
    uint32_t flags;
    uint32_t arguments; /* how many of them the probe reads: the others may have changed. 0: all six are kept */
    uint32_t kernel;    /* whose uprobes: major << 16 | minor << 8 | patch; 0: the running kernel's */
};

enum dwunw_probe_why {
    DWUNW_PROBE_ENTRY_IS_EMULATED = 1, /* nothing to pass over */
    DWUNW_PROBE_MOVED = 2,             /* offset is not 0 */
    DWUNW_PROBE_ENTRY_WAS_ASKED = 3,   /* DWUNW_PROBE_AT_ENTRY */
    DWUNW_PROBE_NOT_HARMLESS = 4,      /* an instruction before the first emulated one may not be passed over */
    DWUNW_PROBE_OTHER_WAY_IN = 5,      /* a branch, landing pad, symbol, or code elsewhere enters behind the entry */
    DWUNW_PROBE_CODE_UNCLEAR = 6,      /* undecodable bytes, indirect jumps, size unknown or beyond the limit */
    DWUNW_PROBE_NONE_EMULATED = 7,     /* not within the first instructions, or before the function's end */
};

struct dwunw_probe_placement {
    uint32_t size;
    uint32_t why;          /* enum dwunw_probe_why */
    uint64_t offset;       /* of the probe, from the function's first byte */
    uint64_t link_address; /* of the probe, in the ELF file's addresses; dwunw_probe_place_code: as offset */
    uint64_t file_offset;  /* of the probe, as perf_event_open and BPF_LINK_CREATE take it; likewise */
    uint32_t emulated;     /* 1: the kernel emulates the instruction there; 0: it is single-stepped */
    uint32_t reserved;
    char reason[192]; /* in words, NUL-terminated, e.g. "offset 3: jz, emulated; passed over `test rdi, rdi`" */
};

/* An ELF file's symbols and code. Thread-safe once open. */
struct dwunw_probe_file;

/* Opens a file by path, and reads its symbol tables. DWUNW_ERR_NO_FILE, DWUNW_ERR_PERMISSION, DWUNW_ERR_NOT_ELF,
   DWUNW_ERR_ELF_MALFORMED, DWUNW_ERR_UNSUPPORTED_ARCH (not x86-64), DWUNW_ERR_LIMIT. */
dwunw_status dwunw_probe_file_open(const char *path, struct dwunw_probe_file **out);
/* The same for a process's module, which has to live as long. */
dwunw_status dwunw_probe_file_open_module(const struct dwunw_module *module, struct dwunw_probe_file **out);
void dwunw_probe_file_close(struct dwunw_probe_file *file);

/*
 * Each fills `out` when it returns DWUNW_OK; a placement at the entry for want of a better one is not an error.
 * `options` may be NULL: all zero. Allocates. Costs a decoding of the function; where the probe can move, also one pass
 * over the file's code (0.5 ms a MB).
 *
 * By symbol: a function's, without its version; where several have the name, the default version's, then a global one
 * before a weak before a local one. DWUNW_ERR_NOT_FOUND: no such function, or several that are equally good and not the
 * same; else as dwunw_probe_place_address.
 */
dwunw_status dwunw_probe_place_symbol(const struct dwunw_probe_file *file, const char *symbol,
                                      const struct dwunw_probe_options *options, struct dwunw_probe_placement *out);

/* By the function's link address and size; size 0: that of the symbol there, if there is one. DWUNW_ERR_NO_MAPPING: no
   executable segment holds it. DWUNW_ERR_IO: the file is shorter than it was. */
dwunw_status dwunw_probe_place_address(const struct dwunw_probe_file *file, uint64_t link_address,
                                       uint64_t function_size, const struct dwunw_probe_options *options,
                                       struct dwunw_probe_placement *out);

/* By a whole function's bytes. What only a file tells (landing pads, symbols, code elsewhere, which jumps go through
   the .got) stays unknown: the caller vouches that nothing enters from outside. */
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
 * The instructions that a function returns at, ascending: every one that a call can come to which passes the
 * instruction at `probe_offset` (dwunw_probe_placement.file_offset), in the functions that it ends in a jump to as
 * well. SP is the entry's at each. A uprobe on each sees every return, and changes nothing in the program, which a
 * return probe does: that one replaces the return address. Up to `max` are stored, *count says how many there are. A
 * jump through the .got to one of the file's own symbols is followed there; a program that has another definition of
 * that symbol is not seen to return.
 *
 * DWUNW_ERR_NOT_FOUND: not all can be known, or there is none; `reason` (may be NULL) says why, NUL-terminated, e.g.
 * "`jmp rax` at 0x1d40 may lead anywhere". Allocates. Costs a decoding of the function.
 */
dwunw_status dwunw_probe_find_returns(const struct dwunw_probe_file *file, uint64_t probe_offset,
                                      struct dwunw_probe_return *returns, size_t max, size_t *count, char *reason,
                                      size_t reason_size);

#ifdef __cplusplus
}
#endif

#endif
