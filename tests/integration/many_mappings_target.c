// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * many_mappings_target MAPPINGS SECONDS PLUGIN…: a program with MAPPINGS executable mappings that loads and unloads ten
 * plugins a second, and calls probe_here from each and from itself. Prints {"pid": n}, waits for a line, prints
 * {"done": calls}, and waits for another line.
 *
 * Compiled without frame pointers and without sibling calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SHAPE __attribute__((noinline, noclone))
#define STAY() __asm__ volatile("" ::: "memory")

static unsigned long calls;

__attribute__((noinline, noclone, visibility("default"), patchable_function_entry(1))) unsigned long
probe_here(unsigned long number) {
    __asm__ volatile("" : "+r"(number));
    return number;
}

SHAPE static void own_call(unsigned long number) {
    probe_here(number);
    calls++;
    STAY();
}

static void from_plugin(unsigned long number) {
    own_call(number);
    STAY();
}

/* Every other page: two of a kind side by side would be one mapping. */
static void map_code(unsigned count) {
    char *pages = mmap(NULL, count * 8192ul, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        exit(1);
    for (unsigned i = 0; i < count; i++)
        if (mprotect(pages + i * 8192ul, 4096, PROT_READ | PROT_EXEC))
            exit(1);
}

SHAPE static void with_plugin(unsigned long number, const char *file) {
    void *plugin = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    void (*run)(unsigned long, void (*)(unsigned long));

    if (!plugin)
        exit(1);
    run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
    run(number, from_plugin);
    dlclose(plugin);
    STAY();
}

static void wait_for_line(void) {
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(1);
}

int main(int argc, char **argv) {
    const struct timespec pause = {.tv_nsec = 100000000 / 8};
    unsigned long i;

    if (argc < 4)
        return 2;
    map_code((unsigned)atoi(argv[1]));
    printf("{\"pid\": %d}\n", getpid());
    fflush(stdout);
    wait_for_line();
    for (i = 0; i < 80ul * (unsigned long)atoi(argv[2]); i++) {
        if (i % 8 == 0)
            with_plugin(i, argv[3 + i / 8 % ((unsigned)argc - 3)]);
        own_call(i);
        nanosleep(&pause, NULL);
    }
    printf("{\"done\": %lu}\n", calls);
    fflush(stdout);
    wait_for_line();
    return 0;
}
