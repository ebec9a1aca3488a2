/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * A program that was compiled with the headers of another version of the library. It declares the structs itself, as
 * those headers would: the first version of each, or with -DNEWER_THAN_THE_LIBRARY one with a field more than today's.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { OK = 0, ERR_STRUCT_SIZE = 32, READ_PROCESS = 1, REGISTERS = 17 };

#ifdef NEWER_THAN_THE_LIBRARY
#define IF_TODAY(field) field;
#define IF_NEWER(field) field;
#define REGSET_ROOM 40
#else
#define IF_TODAY(field)
#define IF_NEWER(field)
#define REGSET_ROOM REGISTERS
#endif

struct dwunw_config {
    uint32_t size;
    IF_TODAY(uint32_t reserved)
    IF_TODAY(uint64_t table_budget)
    IF_NEWER(uint64_t added)
};

struct dwunw_process_options {
    uint32_t size;
    int32_t pid;
    const char *maps;
    IF_TODAY(const char *exe)
    IF_TODAY(const char *sysroot)
    IF_TODAY(uint64_t *maps_error_line)
    IF_NEWER(uint64_t added)
};

struct dwunw_process_counters {
    uint32_t size;
    uint32_t reserved;
    uint64_t captures;
    IF_TODAY(uint64_t others[9])
    IF_NEWER(uint64_t added)
};

/* What the library writes into a dwunw_thread has room for 34 registers, in every version. */
struct thread_regset {
    uint32_t size;
    uint32_t arch;
    uint64_t valid;
    uint64_t regs[34];
};

struct dwunw_thread {
    uint32_t size;
    int32_t tid;
    char name[16];
    struct thread_regset regs;
    IF_NEWER(uint64_t added)
};

struct dwunw_regset {
    uint32_t size;
    uint32_t arch;
    uint64_t valid;
    uint64_t regs[REGSET_ROOM];
};

struct frame {
    uint64_t pc, sp, cfa, module_offset;
    const void *module;
    uint32_t flags, source;
};

struct dwunw_unwind_request {
    uint32_t size;
    uint32_t options;
    struct dwunw_process *process;
    const struct dwunw_regset *regs;
    uint64_t stack_addr;
    const void *stack;
    size_t stack_size;
    size_t (*read_memory)(void *, uint64_t, void *, size_t);
    void *memory_arg;
    const void *pending_returns;
    size_t pending_return_count;
    struct frame *frames;
    size_t max_frames;
    IF_NEWER(uint64_t added)
};

struct dwunw_core_write_options {
    uint32_t size;
    IF_TODAY(uint32_t reserved)
    IF_TODAY(uint64_t stack_bytes)
    IF_NEWER(uint64_t added)
};

struct dwunw_table_summary {
    uint32_t size;
    uint32_t arch;
    uint64_t fdes;
    IF_TODAY(uint64_t others[6])
    IF_NEWER(uint64_t added)
};

struct dwunw_probe_options {
    uint32_t size;
    uint32_t flags;
    IF_TODAY(uint32_t others[2])
    IF_NEWER(uint64_t added)
};

struct dwunw_probe_placement {
    uint32_t size;
    uint32_t why;
    uint64_t offset, link_address, file_offset;
    uint32_t emulated, reserved;
    char reason[192];
    IF_NEWER(uint64_t added)
};

struct dwunw_context;
struct dwunw_process;
struct dwunw_stopped;
struct dwunw_table;
int dwunw_init(const struct dwunw_config *config, struct dwunw_context **out);
void dwunw_shutdown(struct dwunw_context *context);
int dwunw_process_open(struct dwunw_context *context, const struct dwunw_process_options *options,
                       struct dwunw_process **out);
void dwunw_process_close(struct dwunw_process *process);
int dwunw_process_get_counters(const struct dwunw_process *process, struct dwunw_process_counters *out);
int dwunw_process_stop(struct dwunw_process *process, struct dwunw_stopped **out);
void dwunw_process_resume(struct dwunw_stopped *stopped);
int dwunw_stopped_thread(const struct dwunw_stopped *stopped, size_t index, struct dwunw_thread *out);
int dwunw_capture(struct dwunw_context *context, const struct dwunw_unwind_request *request, size_t *written);
int dwunw_core_write(struct dwunw_process *process, struct dwunw_stopped *stopped,
                     const struct dwunw_core_write_options *options, int fd);
int dwunw_table_open(struct dwunw_context *context, const char *path, struct dwunw_table **out);
void dwunw_table_close(struct dwunw_table *table);
int dwunw_table_get_summary(const struct dwunw_table *table, struct dwunw_table_summary *out);
int dwunw_probe_place_code(const void *code, size_t code_size, const struct dwunw_probe_options *options,
                           struct dwunw_probe_placement *out);

/* A result of this caller's version, and what lies behind it in the caller's memory. */
#define GUARDED(type, name)                                                                                            \
    struct {                                                                                                           \
        struct type result;                                                                                            \
        uint64_t behind[4];                                                                                            \
    } name = {.result = {.size = sizeof(struct type)}, .behind = {GUARD, GUARD, GUARD, GUARD}}
#define GUARD UINT64_C(0x5a5a5a5a5a5a5a5a)
#define CHECK_GUARD(name)                                                                                              \
    CHECK(name.result.size == sizeof(name.result) && name.behind[0] == GUARD && name.behind[1] == GUARD &&             \
          name.behind[2] == GUARD && name.behind[3] == GUARD)

static struct dwunw_context *context;
static struct dwunw_process *process;

static void check_capture(struct dwunw_stopped *stopped) {
    GUARDED(dwunw_thread, thread);
    GUARDED(dwunw_process_counters, counters);
    struct dwunw_regset regs = {.size = sizeof(regs)};
    struct frame frames[64];
    struct dwunw_unwind_request request = {
        .size = sizeof(request),
        .options = READ_PROCESS,
        .process = process,
        .regs = &regs,
        .frames = frames,
        .max_frames = sizeof(frames) / sizeof(frames[0]),
    };
    size_t count = 0;

    CHECK(dwunw_stopped_thread(stopped, 0, &thread.result) == OK);
    CHECK_GUARD(thread);
    CHECK(thread.result.tid > 0 && thread.result.name[0] != '\0' && thread.result.regs.regs[16] != 0);
    regs.arch = thread.result.regs.arch;
    regs.valid = thread.result.regs.valid;
    memcpy(regs.regs, thread.result.regs.regs, REGISTERS * sizeof(regs.regs[0]));
    CHECK(dwunw_capture(context, &request, &count) == OK && count > 2);
    CHECK(frames[0].pc == regs.regs[16]);

    CHECK(dwunw_process_get_counters(process, &counters.result) == OK);
    CHECK_GUARD(counters);
    CHECK(counters.result.captures == 1);

    regs.size = 16 + (REGISTERS - 1) * 8; /* without rip */
    CHECK(dwunw_capture(context, &request, &count) == ERR_STRUCT_SIZE && count == 0);
#ifdef NEWER_THAN_THE_LIBRARY
    regs.size = sizeof(regs);
    request.added = 1; /* means something, and not to this library */
    CHECK(dwunw_capture(context, &request, &count) == ERR_STRUCT_SIZE && count == 0);
#endif
}

static void check_stopped_process(void) {
    const struct dwunw_core_write_options core_options = {.size = sizeof(core_options)};
    struct dwunw_stopped *stopped = NULL;
    char magic[4];
    FILE *core = tmpfile();

    CHECK(dwunw_process_stop(process, &stopped) == OK);
    check_capture(stopped);
    CHECK(core && dwunw_core_write(process, stopped, &core_options, fileno(core)) == OK);
    CHECK(pread(fileno(core), magic, sizeof(magic), 0) == 4 && memcmp(magic, "\177ELF", 4) == 0);
    fclose(core);
    dwunw_process_resume(stopped);
}

static void check_process(void) {
    int ready[2];
    char byte;
    pid_t child;
    struct dwunw_process_options options = {.size = sizeof(options)};

    CHECK(pipe(ready) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(write(ready[1], "", 1) == 1);
        pause();
        _exit(0);
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    options.pid = child;
    CHECK(dwunw_process_open(context, &options, &process) == OK);
    check_stopped_process();
    dwunw_process_close(process);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

static void check_table(void) {
    GUARDED(dwunw_table_summary, summary);
    struct dwunw_table *table = NULL;

    CHECK(dwunw_table_open(context, "/proc/self/exe", &table) == OK);
    CHECK(dwunw_table_get_summary(table, &summary.result) == OK);
    CHECK_GUARD(summary);
    CHECK(summary.result.arch == 1 && summary.result.fdes > 0);
    dwunw_table_close(table);
}

static void check_probe(void) {
    static const uint8_t code[] = {0x48, 0x85, 0xff, 0x74, 0x00, 0xc3}; /* test rdi, rdi; jz; ret */
    GUARDED(dwunw_probe_placement, placement);
    struct dwunw_probe_options options = {.size = sizeof(options)};

    CHECK(dwunw_probe_place_code(code, sizeof(code), &options, &placement.result) == OK);
    CHECK_GUARD(placement);
    CHECK(placement.result.offset == 3);
    options.flags = 1; /* DWUNW_PROBE_AT_ENTRY */
    CHECK(dwunw_probe_place_code(code, sizeof(code), &options, &placement.result) == OK);
    CHECK(placement.result.offset == 0);
}

int main(void) {
    struct dwunw_config config = {.size = sizeof(config)};

    CHECK(dwunw_init(&config, &context) == OK);
    check_process();
    check_table();
    check_probe();
    dwunw_shutdown(context);

    context = NULL;
    config.size = 3;
    CHECK(dwunw_init(&config, &context) == ERR_STRUCT_SIZE && context == NULL);
    return 0;
}
