/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Tests the C ABI from C: struct layouts without holes; a walk of the test's own stack, from its registers and a copy
 * of its bytes; the same with the copy cut at every place; and requests that are refused.
 */
#include <assert.h>
#include <dwunw/core.h>
#include <dwunw/dwunw_api.h>
#include <dwunw/process.h>
#include <dwunw/table.h>
#include <dwunw/unwind.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHECK_STATUS(expected, call)                                                                                   \
    do {                                                                                                               \
        const dwunw_status got_ = (call);                                                                              \
        if (got_ != (expected)) {                                                                                      \
            fprintf(stderr, "%s:%d: %s is %s, not %s\n", __FILE__, __LINE__, #call, dwunw_status_string(got_),         \
                    dwunw_status_string(expected));                                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The members' sizes are the struct's: nothing of a caller's that was not written is read, on any compiler. */
static_assert(sizeof(struct dwunw_regset) == 4 + 4 + 8 + 8 * DWUNW_REGSET_MAX, "dwunw_regset");
static_assert(sizeof(struct dwunw_pending_return) == 16, "dwunw_pending_return");
static_assert(sizeof(struct dwunw_unwind_request) ==
                  4 + 4 + 8 + 6 * sizeof(void *) + 3 * sizeof(size_t) + sizeof(dwunw_read_memory_fn),
              "dwunw_unwind_request");
static_assert(sizeof(struct dwunw_frame) == 4 * 8 + sizeof(void *) + 4 + 4, "dwunw_frame");
static_assert(sizeof(struct dwunw_process_options) == 4 + 4 + 4 * sizeof(void *), "dwunw_process_options");
static_assert(sizeof(struct dwunw_process_counters) == 4 + 4 + 10 * 8, "dwunw_process_counters");
static_assert(sizeof(struct dwunw_thread) == 4 + 4 + 16 + sizeof(struct dwunw_regset), "dwunw_thread");
static_assert(sizeof(struct dwunw_core_options) == 4 + 4 + 3 * sizeof(void *), "dwunw_core_options");
static_assert(sizeof(struct dwunw_core_write_options) == 4 + 4 + 8, "dwunw_core_write_options");
static_assert(sizeof(struct dwunw_table_summary) == 4 + 4 + 7 * 8, "dwunw_table_summary");
static_assert(sizeof(struct dwunw_rule) == 4 + 4 + 8, "dwunw_rule");
static_assert(sizeof(struct dwunw_row) == 4 + 4 + 2 * 8 + 3 * sizeof(struct dwunw_rule), "dwunw_row");
static_assert(sizeof(struct dwunw_refusal) == 4 + 4 + 2 * 8, "dwunw_refusal");

#define MAX_FRAMES 64
#define MAX_STACK (64 * 1024)

static struct dwunw_context *context;
static struct dwunw_process *process;

/* What is walked: where this thread was, its bytes from below SP on, and where its callers really are. */
static struct dwunw_regset regs;
static uint64_t stack_addr;
static size_t stack_size;
static uint8_t stack[MAX_STACK];
static uint64_t callers[3];

static struct dwunw_frame frames[MAX_FRAMES];

static struct dwunw_unwind_request request_for(size_t size) {
    struct dwunw_unwind_request request;
    memset(&request, 0, sizeof(request));
    request.size = sizeof(request);
    request.process = process;
    request.regs = &regs;
    request.stack_addr = stack_addr;
    request.stack = stack;
    request.stack_size = size;
    request.frames = frames;
    request.max_frames = MAX_FRAMES;
    return request;
}

__attribute__((noinline)) static void take_stack(void) {
    ucontext_t here;
    callers[0] = (uint64_t)__builtin_return_address(0);
    CHECK(getcontext(&here) == 0);
    dwunw_regset_from_x86_64_getcontext(&regs, &here);
    stack_addr = regs.regs[7] - DWUNW_RED_ZONE;
    stack_size = (size_t)((uint64_t)environ - stack_addr); /* the environment's pointers lie above main's frames */
    CHECK(stack_size <= sizeof(stack));
    memcpy(stack, (const void *)stack_addr, stack_size);
}

__attribute__((noinline)) static void inner(void) {
    callers[1] = (uint64_t)__builtin_return_address(0);
    take_stack();
    __asm__ volatile("");
}

__attribute__((noinline)) static void outer(size_t extra) {
    uint8_t bytes[extra]; /* a frame whose size is known when it runs only */
    __asm__ volatile("" : : "r"(bytes) : "memory");
    callers[2] = (uint64_t)__builtin_return_address(0);
    inner();
    __asm__ volatile("");
}

static size_t test_own_stack(void) {
    struct dwunw_unwind_request request = request_for(stack_size);
    struct dwunw_process_counters counters = {.size = sizeof(counters)};
    size_t count = 0;
    const struct dwunw_module *module = NULL;
    uint64_t link_address = 0;

    CHECK_STATUS(DWUNW_OK, dwunw_capture(context, &request, &count));
    CHECK(count >= 6); /* take_stack inner outer main __libc_start_call_main __libc_start_main _start */
    CHECK(frames[0].pc == regs.regs[16]);
    CHECK(frames[0].source == DWUNW_SOURCE_REGISTERS);
    CHECK(frames[0].flags & DWUNW_FRAME_FLAG_EXACT_PC);
    for (size_t i = 0; i < 3; i++) {
        CHECK(frames[i + 1].pc == callers[i]);
        CHECK(frames[i + 1].source == DWUNW_SOURCE_CFI);
        CHECK(!(frames[i + 1].flags & DWUNW_FRAME_FLAG_EXACT_PC));
        CHECK(frames[i + 1].sp > frames[i].sp);
        CHECK(frames[i].cfa == frames[i + 1].sp);
    }
    CHECK(frames[count - 1].module == frames[0].module);
    CHECK_STATUS(DWUNW_OK, dwunw_process_find_module(process, frames[0].pc, &module, &link_address));
    CHECK(module == frames[0].module);
    CHECK(link_address == frames[0].module_offset);
    CHECK(strstr(dwunw_module_path(module), "capi_c_test") != NULL);
    CHECK_STATUS(DWUNW_OK, dwunw_process_get_counters(process, &counters));
    CHECK(counters.captures == 1 && counters.complete == 1 && counters.frames == count);
    return count;
}

/* A slice that ends anywhere gives the frames up to there, and says that it was too short. */
static void test_cut_slices(size_t whole) {
    static struct dwunw_frame all[MAX_FRAMES];
    size_t last_count = 0;
    memcpy(all, frames, sizeof(all));
    for (size_t size = 0; size < stack_size; size += 1) {
        struct dwunw_unwind_request request = request_for(size);
        size_t count = 0;
        const dwunw_status status = dwunw_capture(context, &request, &count);
        CHECK(count >= 1 && count <= whole);
        CHECK(count >= last_count);
        for (size_t i = 0; i < count; i++)
            CHECK(frames[i].pc == all[i].pc && frames[i].sp == all[i].sp);
        CHECK(status == (count == whole ? DWUNW_OK : DWUNW_ERR_SLICE_EXHAUSTED));
        last_count = count;
    }
    CHECK(last_count == whole);
}

struct served {
    size_t calls;
    uint64_t readable_from;
};

static size_t serve_own_memory(void *arg, uint64_t address, void *buffer, size_t length) {
    struct served *served = arg;
    served->calls++;
    if (address < stack_addr + served->readable_from || address + length > stack_addr + stack_size)
        return 0;
    memcpy(buffer, stack + (address - stack_addr), length);
    return length;
}

static void test_memory_callback(size_t whole) {
    struct served served = {0, 0};
    struct dwunw_unwind_request request = request_for(0);
    size_t count = 0;
    request.read_memory = serve_own_memory;
    request.memory_arg = &served;
    CHECK_STATUS(DWUNW_OK, dwunw_capture(context, &request, &count));
    CHECK(count == whole && served.calls > 0);

    served.readable_from = stack_size;
    CHECK_STATUS(DWUNW_ERR_MEMORY_UNREADABLE, dwunw_capture(context, &request, &count));
    CHECK(count == 1);
}

static void test_few_frames(size_t whole) {
    for (size_t room = 1; room < whole; room++) {
        struct dwunw_unwind_request request = request_for(stack_size);
        size_t count = 0;
        request.max_frames = room;
        frames[room].pc = 0x1234;
        CHECK_STATUS(DWUNW_ERR_FRAME_LIMIT, dwunw_capture(context, &request, &count));
        CHECK(count == room && frames[room].pc == 0x1234);
    }
}

static void test_refusals(void) {
    struct dwunw_unwind_request request = request_for(stack_size);
    struct dwunw_regset other = regs;
    struct dwunw_process *none = NULL;
    struct dwunw_process_options options = {.size = sizeof(options), .pid = -1, .maps = NULL};
    struct dwunw_process_counters counters = {.size = sizeof(counters) - 1};
    struct dwunw_table *table = NULL;
    const struct dwunw_config config = {.size = sizeof(config), .reserved = 1};
    struct dwunw_context *other_context = NULL;
    size_t count = 99;

    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(NULL, &request, &count));
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(context, NULL, &count));
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(context, &request, NULL));
    request.size--;
    CHECK_STATUS(DWUNW_ERR_STRUCT_SIZE, dwunw_capture(context, &request, &count));
    request = request_for(stack_size);
    request.options = 1u << 31;
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(context, &request, &count));
    request = request_for(stack_size);
    request.stack = NULL;
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(context, &request, &count));
    request = request_for(stack_size);
    request.frames = NULL;
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(context, &request, &count));
    request = request_for(stack_size);
    request.process = NULL;
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(context, &request, &count));
    request = request_for(stack_size);
    request.regs = &other;
    other.valid &= ~(UINT64_C(1) << 16);
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_capture(context, &request, &count));
    other = regs;
    other.arch = 77;
    CHECK_STATUS(DWUNW_ERR_UNSUPPORTED_ARCH, dwunw_capture(context, &request, &count));
    CHECK(count == 0);

    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_init(&config, &other_context));
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_init(NULL, NULL));
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_process_open(context, NULL, &none));
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_process_open(context, &options, &none));
    options.pid = 0x7ffffffe;
    CHECK_STATUS(DWUNW_ERR_NO_PROCESS, dwunw_process_open(context, &options, &none));
    options.pid = 0;
    options.maps = "not a map";
    CHECK_STATUS(DWUNW_ERR_MAPS_MALFORMED, dwunw_process_open(context, &options, &none));
    CHECK_STATUS(DWUNW_ERR_STRUCT_SIZE, dwunw_process_get_counters(process, &counters));
    CHECK_STATUS(DWUNW_ERR_NO_FILE, dwunw_table_open(context, "/no/such/file", &table));
    CHECK_STATUS(DWUNW_ERR_NOT_ELF, dwunw_table_open(context, "/etc/passwd", &table));
    CHECK_STATUS(DWUNW_ERR_INVALID_ARGUMENT, dwunw_table_open(context, NULL, &table));
    CHECK(none == NULL && table == NULL && other_context == NULL);

    /* What ends a handle takes NULL. */
    dwunw_process_close(NULL);
    dwunw_table_close(NULL);
    dwunw_process_resume(NULL);
    dwunw_shutdown(NULL);
}

static void test_unknown_pc(void) {
    struct dwunw_regset elsewhere = regs;
    struct dwunw_unwind_request request = request_for(stack_size);
    size_t count = 0;
    elsewhere.regs[16] = 0x10;
    request.regs = &elsewhere;
    CHECK_STATUS(DWUNW_ERR_NO_MAPPING, dwunw_capture(context, &request, &count));
    CHECK(count == 1 && frames[0].pc == 0x10 && frames[0].module == NULL);
}

static void test_status_texts(void) {
#define CHECK_TEXT(name, value, text) CHECK((int)(name) == (value) && strcmp(dwunw_status_string(name), text) == 0);
    DWUNW_STATUS_LIST(CHECK_TEXT)
    CHECK(strcmp(dwunw_status_string((dwunw_status)4711), "unknown status") == 0);
}

int main(void) {
    struct dwunw_process_options options = {.size = sizeof(options), .pid = getpid(), .maps = NULL};
    size_t whole;

    CHECK_STATUS(DWUNW_OK, dwunw_init(NULL, &context));
    CHECK_STATUS(DWUNW_OK, dwunw_process_open(context, &options, &process));
    outer((size_t)options.pid % 64 + 1);
    whole = test_own_stack();
    test_cut_slices(whole);
    test_memory_callback(whole);
    test_few_frames(whole);
    test_unknown_pc();
    test_refusals();
    test_status_texts();
    dwunw_process_close(process);
    dwunw_shutdown(context);
    puts("passed");
    return 0;
}
