/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Walks one stack: registers and stack bytes in, frames out.
 *
 *     request   rip = 0x1152, rsp = 0x7ffc…e8, and the bytes of the stack from rsp − DWUNW_RED_ZONE upward
 *     result    frame 0  pc 0x1152  DWUNW_SOURCE_REGISTERS
 *               frame 1  pc 0x11a3  DWUNW_SOURCE_CFI          the caller, by a row of the unwind table
 *               frame 2  …                                    and so on to the outermost frame: DWUNW_OK
 *
 * The promise: no frame is wrong. A walk that cannot go on keeps the frames it has found and returns the reason. It
 * never reports a truncated stack as complete. Rules come from .eh_frame and .debug_frame (DWARF 5 §6.4, LSB "Exception
 * Frames", System V x86-64 psABI §3.7). Where a module has no rules, the walk uses the code itself if the code proves
 * the caller, and stops otherwise. Every frame says how it was found.
 */
#ifndef DWUNW_UNWIND_H
#define DWUNW_UNWIND_H

#include <dwunw/dwunw_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_module;  /* process.h */
struct dwunw_process; /* process.h */

enum dwunw_arch {
    DWUNW_ARCH_X86_64 = 1,
};

/* Bytes below SP that CFI rules may read (psABI §3.2.2, the red zone). A slice should begin at SP − DWUNW_RED_ZONE. */
#define DWUNW_RED_ZONE 128

#define DWUNW_REGSET_MAX 34

/*
 * A register set in DWARF order. x86_64 (psABI figure 3.36): rax rdx rcx rbx rsi rdi rbp rsp r8–r15, then rip at 16.
 * Bit n of `valid` is set if regs[n] holds a value. rip and rsp are required.
 */
struct dwunw_regset {
    uint32_t size;
    uint32_t arch; /* enum dwunw_arch */
    uint64_t valid;
    uint64_t regs[DWUNW_REGSET_MAX];
};

#define DWUNW_X86_64_PT_REGS 21

/*
 * Fills `out` from x86-64 registers in the order that the kernel's struct pt_regs, PTRACE_GETREGSET(NT_PRSTATUS) and
 * core files share: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss.
 */
void dwunw_regset_from_x86_64_pt_regs(struct dwunw_regset *out, const uint64_t pt_regs[DWUNW_X86_64_PT_REGS]);

/*
 * Fill `out` from other forms of x86-64 registers. As above, a caller need not set out->size. A register that the form
 * does not hold is not valid. Thread-safe. They allocate nothing and may be called in a signal handler.
 */

/* `ucontext` is the third argument of a signal handler with SA_SIGINFO: a ucontext_t * that the kernel filled. All
   registers are valid. */
void dwunw_regset_from_x86_64_signal_context(struct dwunw_regset *out, const void *ucontext);

/* `ucontext` is a ucontext_t * that getcontext or swapcontext filled. Only rbx, rbp, rsp, r12–r15 and rip are valid:
   the other registers have changed when the call returns. */
void dwunw_regset_from_x86_64_getcontext(struct dwunw_regset *out, const void *ucontext);

/* `regs` holds one value for each bit of `mask`, in ascending order of the bits, as a perf sample does:
   PERF_SAMPLE_REGS_USER with PERF_SAMPLE_REGS_ABI_64, the mask being perf_event_attr.sample_regs_user (bits are
   PERF_REG_X86_…, <asm/perf_regs.h>). A walk needs PERF_REG_X86_IP, _SP and _BP in it, and _BX and _R12 to _R15 where
   a function keeps its caller's frame in those. */
void dwunw_regset_from_x86_64_perf_regs(struct dwunw_regset *out, uint64_t mask, const uint64_t *regs);

/*
 * Reads `length` bytes at `address` of the target into `buffer`. Returns the number of bytes read, counted from
 * `address` (0 to `length`). dwunw_capture calls it on the thread that called dwunw_capture.
 */
typedef size_t (*dwunw_read_memory_fn)(void *arg, uint64_t address, void *buffer, size_t length);

/*
 * One pending uretprobe. The kernel has replaced the return address at the stack address `slot` by the address of its
 * trampoline. `return_address` is the original (task->utask->return_instances: stack, orig_ret_vaddr).
 */
struct dwunw_pending_return {
    uint64_t slot;
    uint64_t return_address;
};

/* dwunw_unwind_request.options */
enum {
    /* Read the live process's memory for what the slice does not hold (process_vm_readv, then /proc/PID/mem). Use this
       only while the target is stopped; otherwise frames of two moments may mix. */
    DWUNW_UNWIND_READ_PROCESS = 1u << 0,
    /* Return DWUNW_ERR_NO_CFI where no CFI covers a frame: no frame-pointer step, no return address found by code. */
    DWUNW_UNWIND_CFI_ONLY = 1u << 1,
};

struct dwunw_unwind_request {
    uint32_t size;
    uint32_t options;
    struct dwunw_process *process;
    const struct dwunw_regset *regs;
    uint64_t stack_addr; /* the slice's address in the target; it lies below SP, see DWUNW_RED_ZONE */
    const void *stack;   /* the captured slice; may be NULL if stack_size is 0 */
    size_t stack_size;
    /* Reads memory that the slice does not hold; NULL: the walk reads the slice only. A failed read within 1 MiB behind
       the slice ends the walk with DWUNW_ERR_SLICE_EXHAUSTED, elsewhere with DWUNW_ERR_MEMORY_UNREADABLE. */
    dwunw_read_memory_fn read_memory;
    void *memory_arg;
    const struct dwunw_pending_return *pending_returns; /* in any order; may be NULL */
    size_t pending_return_count;
    struct dwunw_frame *frames; /* an array of max_frames */
    size_t max_frames;
};

/* dwunw_frame.flags */
enum {
    /* `pc` is the instruction itself (frame 0, or a frame that a signal interrupted), not a return address. Look
       symbols up at pc, not at pc − 1. */
    DWUNW_FRAME_FLAG_EXACT_PC = 1u << 0,
    /* A signal trampoline. The next frame is the one that the signal interrupted. */
    DWUNW_FRAME_FLAG_SIGNAL = 1u << 1,
    /* The slot of a callee-saved register lies below SP and could not be read. The walk assumed that the register has
       kept its value. */
    DWUNW_FRAME_FLAG_REGISTER_KEPT = 1u << 2,
    /* The CFA comes from a register that a call may change (x86_64: rax or r11, in OpenSSL). No rule of the called
       function mentions that register. The walk uses the CFA because the called function's code does not write the
       register, and because the CFA leads to a return address that follows a call instruction. */
    DWUNW_FRAME_FLAG_CFA_UNMENTIONED = 1u << 3,
    /* `pc` is not executable code: a call through a null or wild pointer led there. The next frame is the caller. */
    DWUNW_FRAME_FLAG_NO_CODE = 1u << 4,
};

/* dwunw_frame.source: how the walk found this frame. "Inner frame" is the frame before it, which it called. */
enum dwunw_frame_source {
    DWUNW_SOURCE_REGISTERS = 0,     /* the request's registers: frame 0 */
    DWUNW_SOURCE_CFI = 1,           /* a row of the compiled table */
    DWUNW_SOURCE_INTERPRETER = 2,   /* the full CFI interpreter, all registers */
    DWUNW_SOURCE_SIGNAL = 3,        /* the registers that a signal frame saved */
    DWUNW_SOURCE_TRAMPOLINE = 4,    /* a pending return, in place of the uretprobe trampoline */
    DWUNW_SOURCE_FRAME_POINTER = 5, /* a frame-pointer step that the code proves; no CFI covers the inner frame */
    DWUNW_SOURCE_CODE = 6,          /* the inner frame's instructions prove the caller; no CFI covers them */
    DWUNW_SOURCE_CALL = 7,          /* the return address on top of the stack; the inner frame's pc is not code */
};

struct dwunw_frame {
    uint64_t pc;
    uint64_t sp;            /* the stack pointer in this frame */
    uint64_t cfa;           /* its canonical frame address; 0 if the walk did not compute it */
    uint64_t module_offset; /* pc as an address of the module's ELF file (link address); 0 without a module */
    const struct dwunw_module *module; /* NULL: pc is not in a mapped file; else valid until dwunw_shutdown */
    uint32_t flags;
    uint32_t source; /* enum dwunw_frame_source */
};

/*
 * Walks one stack. Fills `frames`, innermost first, and sets *written to their number. Returns DWUNW_OK if the walk
 * reached the outermost frame, otherwise the reason why it stopped. Frame 0 is written even if the walk stops at
 * once, except with DWUNW_ERR_INVALID_ARGUMENT, DWUNW_ERR_STRUCT_SIZE and DWUNW_ERR_UNSUPPORTED_ARCH.
 *
 * Thread-safe: many threads may capture in one context and one process at once. The call allocates memory only
 *   - when it meets a module for the first time. It compiles the table of a small module at once. The table of a big
 *     module is compiled in the background, and the walk does not wait for it;
 *   - when a stack needs the full interpreter;
 *   - when it reads the process's map again.
 *
 * Not in a signal handler, whose thread may be in malloc: signal.h says what a handler calls instead.
 */
dwunw_status dwunw_capture(struct dwunw_context *context, const struct dwunw_unwind_request *request, size_t *written);

#ifdef __cplusplus
}
#endif

#endif
