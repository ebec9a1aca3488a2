// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * bpf_walk_user [options] FILE FUNCTION: takes the stack of every call of a function, and prints each as a line of
 * JSON. For tests. Prints {"ready": …} when its probes are attached. Ends when its standard input does.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <dwunw/bpf_stacks.h>

#include "bpf_walk.h"
#include "bpf_walk.skel.h"

#define MAX_FRAMES 1024
#define MAX_CALLS (1 << 20)

static struct bpf_walk_call *calls;
static size_t call_count;
static unsigned long calls_beyond;

static int on_call(void *arg, void *data, size_t size) {
    (void)arg;
    (void)size;
    if (call_count == MAX_CALLS) {
        calls_beyond++;
        return 0;
    }
    calls[call_count++] = *(const struct bpf_walk_call *)data;
    return 0;
}

static void print_stack(const char *name, const struct dwunw_bpf *bpf, __s64 id) {
    static struct dwunw_frame frames[MAX_FRAMES];
    struct dwunw_bpf_stack stack = {.size = sizeof(stack)};
    size_t i;

    printf(", \"%s\": {\"id\": %lld", name, (long long)id);
    if (id <= 0) {
        printf(", \"missing\": \"%s\"}", dwunw_bpf_reason_string((uint32_t)-id));
        return;
    }
    if (dwunw_bpf_lookup(bpf, (uint64_t)id, &stack, frames, MAX_FRAMES) != DWUNW_OK) {
        printf(", \"missing\": \"not found\"}");
        return;
    }
    printf(", \"pid\": %d, \"same_as\": %llu, \"status\": \"%s\", \"reason\": \"%s\", \"frames\": [", stack.pid,
           (unsigned long long)stack.id, dwunw_status_string(stack.status), dwunw_bpf_reason_string(stack.reason));
    for (i = 0; i < stack.count && i < MAX_FRAMES; i++)
        printf("%s[%lu, %u, %u, \"%s\", %lu]", i ? ", " : "", frames[i].pc, frames[i].flags, frames[i].source,
               frames[i].module ? dwunw_module_path(frames[i].module) : "", frames[i].module_offset);
    printf("]}");
}

static void print_counters(const struct dwunw_bpf *bpf) {
    struct dwunw_bpf_counters counters = {.size = sizeof(counters)};
    char text[512];
    uint32_t i;

    if (dwunw_bpf_get_counters(bpf, &counters) != DWUNW_OK)
        return;
    dwunw_bpf_describe(bpf, text, sizeof(text));
    for (char *at = text; *at; at++)
        if (*at == '\n')
            *at = ';';
    printf("{\"counters\": {\"choices\": \"%s\"", text);
#define COUNTER(name) printf(", \"" #name "\": %lu", counters.name)
    COUNTER(walks);
    COUNTER(frames);
    COUNTER(cache_misses);
    COUNTER(trampoline_frames);
    COUNTER(new_stacks);
    COUNTER(user_walks);
    COUNTER(deduplicated);
    COUNTER(failed_inserts);
    COUNTER(process_requests);
    COUNTER(requests_dropped);
    COUNTER(linker_events);
    COUNTER(lost_calls);
    COUNTER(publications);
    COUNTER(user_walks_complete);
    COUNTER(user_walks_stale);
    COUNTER(stacks);
    COUNTER(id_collisions);
    COUNTER(records_malformed);
    COUNTER(lost_to_memory);
    COUNTER(modules);
    COUNTER(modules_without_room);
    COUNTER(rules_left_to_user);
    COUNTER(pool_bytes);
    COUNTER(pool_bytes_used);
    COUNTER(mappings_used);
    COUNTER(memory_bytes);
#undef COUNTER
    printf(", \"calls_beyond\": %lu, \"reasons\": {", calls_beyond);
    for (i = 0; i < DWUNW_BPF_REASONS; i++)
        printf("%s\"%s\": %lu", i ? ", " : "", dwunw_bpf_reason_string(i), counters.reasons[i]);
    printf("}}}\n");
}

static int fail(const char *what) {
    fprintf(stderr, "bpf_walk_user: %s: %s\n", what, strerror(errno));
    return 1;
}

static int print_libbpf(enum libbpf_print_level level, const char *format, va_list args) {
    return level == LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

int main(int argc, char **argv) {
    struct dwunw_bpf_options options = {.size = sizeof(options)};
    LIBBPF_OPTS(bpf_uprobe_opts, uprobe);
    struct dwunw_context *context = NULL;
    struct bpf_walk *skeleton = NULL;
    struct dwunw_bpf *bpf = NULL;
    struct ring_buffer *ring = NULL;
    bool compare = false, at_return = false, quiet = false, idle = false, sample = false;
    const char *pending[16], *nested[4];
    struct bpf_link *links[25]; /* theirs, and the one that walks */
    size_t pending_count = 0, nested_count = 0, link_count = 0, pid_count = 0, i;
    int pids[64], opt, status = 1;
    dwunw_status walked;
    __u64 flags = 0;

    while ((opt = getopt(argc, argv, "p:P:R:C:r:i:s:g:G:m:t:L:cqukndlTaIS")) != -1) {
        switch (opt) {
        case 'p':
            if (pid_count < sizeof(pids) / sizeof(pids[0]))
                pids[pid_count++] = atoi(optarg);
            break;
        case 'R': /* a function with a pending return */
            if (pending_count < sizeof(pending) / sizeof(pending[0]))
                pending[pending_count++] = optarg;
            break;
        case 'C': /* a function whose calls are paired with their returns */
            if (nested_count < sizeof(nested) / sizeof(nested[0]))
                nested[nested_count++] = optarg;
            break;
        case 'P':
            options.pool_bytes = (uint32_t)atoi(optarg);
            break;
        case 'r':
            options.ring_bytes = (uint32_t)atoi(optarg);
            break;
        case 'i':
            options.stack_ids = (uint32_t)atoi(optarg);
            break;
        case 's':
            options.slice_bytes = (uint32_t)atoi(optarg);
            break;
        case 'g':
            options.first_generation = (uint32_t)atoi(optarg);
            break;
        case 'm':
            options.mappings = (uint32_t)atoi(optarg);
            break;
        case 't':
            options.threads = (uint32_t)atoi(optarg);
            break;
        case 'L':
            options.path_limit = (uint32_t)atoi(optarg);
            break;
        case 'c':
            compare = true;
            break;
        case 'q': /* no calls, counters alone */
            quiet = true;
            break;
        case 'I': /* poll only at the end */
            idle = true;
            break;
        case 'u':
            flags = DWUNW_USER_ONLY;
            break;
        case 'k':
            flags = DWUNW_KERNEL_ONLY;
            break;
        case 'n':
            at_return = true;
            break;
        case 'd':
            options.flags |= DWUNW_BPF_NO_LINKER_PROBE;
            break;
        case 'S':
            sample = true;
            break;
        case 'l':
            options.flags |= DWUNW_BPF_NO_LOOP;
            break;
        case 'T':
            options.flags |= DWUNW_BPF_NO_TASK_STORAGE;
            break;
        case 'a':
            options.flags |= DWUNW_BPF_ADD_UNKNOWN;
            break;
        default:
            return 2;
        }
    }
    if (argc - optind != 2)
        return 2;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    libbpf_set_print(print_libbpf);
    calls = calloc(MAX_CALLS, sizeof(*calls));
    skeleton = bpf_walk__open();
    if (!calls || !skeleton || dwunw_init(NULL, &context) != DWUNW_OK) {
        fail("open");
        goto out;
    }
    skeleton->rodata->compare = compare;
    skeleton->rodata->record = !quiet;
    skeleton->rodata->kernel_flags = flags;
    bpf_program__set_autoload(skeleton->progs.on_sample, sample);
    walked = dwunw_bpf_open(context, skeleton->obj, &options, &bpf);
    if (walked != DWUNW_OK || bpf_walk__load(skeleton)) {
        fail(walked != DWUNW_OK ? dwunw_status_string(walked) : "load");
        goto out;
    }
    walked = dwunw_bpf_start(bpf);
    if (sample) {
        char text[512];

        dwunw_bpf_describe(bpf, text, sizeof(text));
        printf("%s\n%s", dwunw_status_string(walked), text);
        status = 0;
        goto out;
    }
    for (i = 0; walked == DWUNW_OK && i < pid_count; i++)
        walked = dwunw_bpf_add_process(bpf, pids[i]);
    if (walked != DWUNW_OK) {
        fail(dwunw_status_string(walked));
        goto out;
    }
    ring = ring_buffer__new(bpf_map__fd(skeleton->maps.calls), on_call, NULL, NULL);
    if (!ring) {
        fail("ring buffer");
        goto out;
    }
    for (i = 0; i < pending_count; i++) {
        LIBBPF_OPTS(bpf_uprobe_opts, retprobe, .func_name = pending[i], .retprobe = true);

        links[link_count] = bpf_program__attach_uprobe_opts(skeleton->progs.do_nothing, -1, argv[optind], 0, &retprobe);
        if (!links[link_count++]) {
            fail(pending[i]);
            goto out;
        }
    }
    for (i = 0; i < nested_count * 2; i++) {
        LIBBPF_OPTS(bpf_uprobe_opts, call, .func_name = nested[i / 2], .retprobe = i % 2 == 0);

        links[link_count] = bpf_program__attach_uprobe_opts(
            call.retprobe ? skeleton->progs.call_returns : skeleton->progs.call_enters, -1, argv[optind], 0, &call);
        if (!links[link_count++]) {
            fail(nested[i / 2]);
            goto out;
        }
    }
    uprobe.func_name = argv[optind + 1];
    uprobe.retprobe = at_return;
    links[link_count] = bpf_program__attach_uprobe_opts(
        at_return ? skeleton->progs.on_return : skeleton->progs.on_entry, -1, argv[optind], 0, &uprobe);
    if (!links[link_count++]) {
        fail(argv[optind + 1]);
        goto out;
    }
    printf("{\"ready\": %d}\n", getpid());
    fflush(stdout);

    while (true) {
        struct pollfd fds[] = {
            {.fd = STDIN_FILENO, .events = POLLIN},
            {.fd = idle ? -1 : dwunw_bpf_epoll_fd(bpf), .events = POLLIN},
            {.fd = ring_buffer__epoll_fd(ring), .events = POLLIN},
        };
        char byte;

        poll(fds, 3, 10);
        ring_buffer__consume(ring);
        if (!idle)
            dwunw_bpf_poll(bpf, 0, NULL);
        if (fds[0].revents && read(STDIN_FILENO, &byte, 1) <= 0)
            break;
    }
    for (i = 1; i;)
        if (dwunw_bpf_poll(bpf, 0, &i) != DWUNW_OK)
            break;
    ring_buffer__consume(ring);
    for (i = 0; i < call_count; i++) {
        printf("{\"number\": %llu, \"pid\": %u, \"tid\": %u", (unsigned long long)calls[i].number, calls[i].pid,
               calls[i].tid);
        print_stack("kernel", bpf, calls[i].kernel);
        if (compare)
            print_stack("user", bpf, calls[i].user);
        printf("}\n");
    }
    if (skeleton->bss->calls_lost)
        printf("{\"calls_lost\": %llu}\n", (unsigned long long)skeleton->bss->calls_lost);
    printf("{\"calls\": [%llu, %llu, %llu]}\n", (unsigned long long)skeleton->bss->calls_begun,
           (unsigned long long)skeleton->bss->calls_ended, (unsigned long long)skeleton->bss->calls_mixed_up);
    print_counters(bpf);
    status = 0;
out:
    ring_buffer__free(ring);
    while (link_count > 0)
        bpf_link__destroy(links[--link_count]);
    dwunw_bpf_close(bpf);
    bpf_walk__destroy(skeleton);
    dwunw_shutdown(context);
    free(calls);
    return status;
}
