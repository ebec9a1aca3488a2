// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Calls an address that is not code, in one of the ways that real programs do it: main → outer → calls → the call.
 *
 *     no_code_target HOW WHEN
 *
 * HOW: null, register, table, stack, heap, vsyscall, plt. WHEN: die (of the SIGSEGV), wait (in its handler), capture
 * (in its handler, with only a slice of the stack; prints a frame a line).
 */
#define _GNU_SOURCE
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ucontext.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))

struct table {
    long other;
    void (*call)(void);
};

/* Not defined: its PLT entry jumps to 0. */
extern void not_there(void) __attribute__((weak));

void (*volatile hook)(void);
struct table *volatile hooks;
static struct dwunw_context *context;
static struct dwunw_process *process;
static uint64_t stack_end;

static void capture(const mcontext_t *machine) {
    static const int order[17] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
                                  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    struct dwunw_regset regs = {.size = sizeof(regs), .arch = DWUNW_ARCH_X86_64, .valid = (1u << 17) - 1};
    struct dwunw_frame frames[64];
    size_t count, i;

    for (i = 0; i < 17; i++)
        regs.regs[i] = (uint64_t)machine->gregs[order[i]];
    const uint64_t start = regs.regs[7] - DWUNW_RED_ZONE;
    const struct dwunw_unwind_request request = {
        .size = sizeof(request),
        .process = process,
        .regs = &regs,
        .stack_addr = start,
        .stack = (const void *)start,
        .stack_size = stack_end - start,
        .frames = frames,
        .max_frames = 64,
    };
    const dwunw_status status = dwunw_capture(context, &request, &count);

    for (i = 0; i < count; i++) {
        Dl_info info = {0};
        const int exact = frames[i].flags & DWUNW_FRAME_FLAG_EXACT_PC;
        const int named = dladdr((void *)(frames[i].pc - !exact), &info) && info.dli_sname;

        printf("%s%s\n", named ? info.dli_sname : "?", frames[i].flags & DWUNW_FRAME_FLAG_NO_CODE ? " no code" : "");
    }
    printf("%s\n", dwunw_status_string(status));
    fflush(stdout);
    _exit(0);
}

static const char *when;

static void handler(int number, siginfo_t *info, void *machine) {
    (void)number;
    (void)info;
    if (!strcmp(when, "capture"))
        capture(&((ucontext_t *)machine)->uc_mcontext);
    for (;;)
        pause();
}

FUNCTION int calls_hook(volatile char *pad) {
    hook();
    return pad[0];
}
FUNCTION int calls_register(volatile char *pad) {
    /* The compiler sees no call here: the red zone is left alone, and SP put where the psABI wants it. */
    __asm__ volatile("sub $136, %%rsp\n.cfi_adjust_cfa_offset 136\ncall *%0\nadd $136, %%rsp\n"
                     ".cfi_adjust_cfa_offset -136" ::"r"(hook)
                     : "memory", "cc");
    return pad[0];
}
FUNCTION int calls_table(volatile char *pad) {
    hooks->call();
    return pad[0];
}
FUNCTION int calls_plt(volatile char *pad) {
    not_there();
    return pad[0];
}

FUNCTION int outer(const char *how) {
    volatile char pad[72] = {1};

    if (!strcmp(how, "register"))
        return calls_register(pad) + 1;
    if (!strcmp(how, "table"))
        return calls_table(pad) + 1;
    if (!strcmp(how, "plt"))
        return calls_plt(pad) + 1;
    if (!strcmp(how, "stack"))
        hook = (void (*)(void))pad;
    return calls_hook(pad) + 1;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    when = argv[2];
    stack_end = (uint64_t)__builtin_frame_address(0) + 256;
    hooks = calloc(1, sizeof(*hooks));
    if (!strcmp(argv[1], "heap"))
        hook = (void (*)(void))hooks;
    else if (!strcmp(argv[1], "vsyscall")) /* behind the beginning of time(): the kernel allows no call there */
        hook = (void (*)(void))0xffffffffff600405;
    if (strcmp(when, "die")) {
        const struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
        const struct dwunw_process_options options = {.size = sizeof(options), .pid = getpid()};

        if (dwunw_init(NULL, &context) != DWUNW_OK || dwunw_process_open(context, &options, &process) != DWUNW_OK)
            return 3;
        sigaction(SIGSEGV, &action, NULL);
    }
    return outer(argv[1]) != 0;
}
