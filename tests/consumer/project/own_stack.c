/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The C ABI used from C: a program walks its own stack from its registers and finds its callers, down to the root.
 * Its argument is the version that the installed tree claims to be.
 */
#include <dwunw/dwunw_api.h>
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_FRAMES 64
#define STRINGIFY(x) #x
#define VERSION_TEXT(major, minor, patch) STRINGIFY(major) "." STRINGIFY(minor) "." STRINGIFY(patch)

static struct dwunw_context *context;
static struct dwunw_process *process;
static struct dwunw_frame frames[MAX_FRAMES];

/* The registers that a walk starts from, as they are at the instruction whose address goes into rip. */
#define CURRENT_REGISTERS(set)                                                                                         \
    do {                                                                                                               \
        memset(&(set), 0, sizeof(set));                                                                                \
        (set).size = sizeof(set);                                                                                      \
        (set).arch = DWUNW_ARCH_X86_64;                                                                                \
        (set).valid = 1u << 3 | 1u << 6 | 1u << 7 | 0xfu << 12 | 1u << 16;                                             \
        __asm__ volatile("leaq 0f(%%rip), %%rax\n"                                                                     \
                         "0: movq %%rax, 128(%0)\n"                                                                    \
                         "movq %%rbx, 24(%0)\n"                                                                        \
                         "movq %%rbp, 48(%0)\n"                                                                        \
                         "movq %%rsp, 56(%0)\n"                                                                        \
                         "movq %%r12, 96(%0)\n"                                                                        \
                         "movq %%r13, 104(%0)\n"                                                                       \
                         "movq %%r14, 112(%0)\n"                                                                       \
                         "movq %%r15, 120(%0)\n"                                                                       \
                         :                                                                                             \
                         : "r"((set).regs)                                                                             \
                         : "rax", "memory");                                                                           \
    } while (0)

__attribute__((noinline)) static int walk(void) {
    struct dwunw_regset regs;
    struct dwunw_unwind_request request;
    dwunw_status status;
    size_t count = 0;

    CURRENT_REGISTERS(regs);
    memset(&request, 0, sizeof(request));
    request.size = sizeof(request);
    request.process = process;
    request.regs = &regs;
    request.read_memory = dwunw_process_read_memory;
    request.memory_arg = process;
    request.frames = frames;
    request.max_frames = MAX_FRAMES;
    status = dwunw_capture(context, &request, &count);

    printf("own_stack: %zu frames, %s\n", count, dwunw_status_string(status));
    if (status != DWUNW_OK || count < 4) {
        fprintf(stderr, "own_stack: want the root, after walk, caller, main and libc's\n");
        return 1;
    }
    if (frames[1].pc != (uint64_t)__builtin_return_address(0)) {
        fprintf(stderr, "own_stack: frame 1 is at %#llx, walk's caller at %p\n", (unsigned long long)frames[1].pc,
                __builtin_return_address(0));
        return 1;
    }
    return 0;
}

__attribute__((noinline)) static int caller(void) {
    const void *return_address = __builtin_return_address(0);
    const int result = walk();

    if (result == 0 && frames[2].pc != (uint64_t)return_address) {
        fprintf(stderr, "own_stack: frame 2 is at %#llx, want %p\n", (unsigned long long)frames[2].pc, return_address);
        return 1;
    }
    return result;
}

int main(int argc, char **argv) {
    const char *version = VERSION_TEXT(DWUNW_VERSION_MAJOR, DWUNW_VERSION_MINOR, DWUNW_VERSION_PATCH);
    struct dwunw_process_options options;
    dwunw_status status;
    int result;

    if (argc != 2 || strcmp(argv[1], version) != 0) {
        fprintf(stderr, "own_stack: the headers are of version %s, the package of %s\n", version,
                argc == 2 ? argv[1] : "no version");
        return 1;
    }

    status = dwunw_init(NULL, &context);
    if (status != DWUNW_OK) {
        fprintf(stderr, "own_stack: dwunw_init: %s\n", dwunw_status_string(status));
        return 1;
    }
    memset(&options, 0, sizeof(options));
    options.size = sizeof(options);
    options.pid = getpid();
    status = dwunw_process_open(context, &options, &process);
    if (status != DWUNW_OK) {
        fprintf(stderr, "own_stack: dwunw_process_open: %s\n", dwunw_status_string(status));
        dwunw_shutdown(context);
        return 1;
    }

    result = caller();

    dwunw_process_close(process);
    dwunw_shutdown(context);
    return result;
}
