// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Two BPF objects that each include dwunw.bpf.h, linked to one: both get complete stacks of this program, whose frame 0
 * is the function that each of them is on.
 */
#include <dwunw/bpf_stacks.h>

#include <stdio.h>
#include <unistd.h>

#include "linked.skel.h" /* uses structs of dwunw's headers */

static volatile int calls;
__attribute__((noinline)) void call_first(void) { calls++; }
__attribute__((noinline)) void call_second(void) { calls++; }

static int failed(const char *what, dwunw_status status) {
    if (status != DWUNW_OK)
        fprintf(stderr, "linked_objects: %s: %s\n", what, dwunw_status_string(status));
    return status != DWUNW_OK;
}

static struct bpf_link *attach(struct bpf_program *program, const char *function) {
    LIBBPF_OPTS(bpf_uprobe_opts, options, .func_name = function);

    return bpf_program__attach_uprobe_opts(program, getpid(), "/proc/self/exe", 0, &options);
}

/* Whether the id's stack is complete and begins at `function`. */
static int is_stack_of(const struct dwunw_bpf *bpf, __s64 id, void (*function)(void)) {
    struct dwunw_bpf_stack stack = {.size = sizeof(stack)};
    struct dwunw_frame frames[16];

    if (id <= 0) {
        fprintf(stderr, "linked_objects: no id: %s\n", dwunw_bpf_reason_string((uint32_t)-id));
        return 0;
    }
    if (failed("lookup", dwunw_bpf_lookup(bpf, (uint64_t)id, &stack, frames, 16)))
        return 0;
    return !failed("stack", stack.status) && stack.count >= 4 && frames[0].pc == (uint64_t)function;
}

int main(void) {
    struct dwunw_context *context = NULL;
    struct dwunw_bpf *bpf = NULL;
    struct linked *object = linked__open();
    int status = 1;

    if (!object || failed("init", dwunw_init(NULL, &context)) ||
        failed("open", dwunw_bpf_open(context, object->obj, NULL, &bpf)) || linked__load(object) ||
        failed("start", dwunw_bpf_start(bpf)) || failed("add", dwunw_bpf_add_process(bpf, getpid())))
        goto out;
    object->links.on_first = attach(object->progs.on_first, "call_first");
    object->links.on_second = attach(object->progs.on_second, "call_second");
    if (!object->links.on_first || !object->links.on_second)
        goto out;
    call_first();
    call_second();
    if (failed("poll", dwunw_bpf_poll(bpf, 0, NULL)))
        goto out;
    if (is_stack_of(bpf, object->bss->id_first, call_first) && is_stack_of(bpf, object->bss->id_second, call_second))
        status = 0;
out:
    dwunw_bpf_close(bpf);
    linked__destroy(object);
    dwunw_shutdown(context);
    if (status == 0)
        puts("two stacks, complete");
    return status;
}
