// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * storm_target SECONDS LOG PLUGIN…: a program in which everything happens at the same time: plugins that are loaded,
 * allocate, and are unloaded at once; threads that come and go; children; and threads that allocate by some thousand
 * paths. Prints {"pid": n}, waits for a line, storms, writes LOG, prints {"done": …}, and waits for another line.
 *
 * LOG has a line for each block that was never freed: its address and the functions that led to it, innermost first,
 * from malloc's caller to the thread's first function.
 *
 * Compiled without frame pointers and without sibling calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATHS 6516
#define LEVELS 13
#define SHAPE __attribute__((noinline, noclone))
/* Nothing that is behind a call may become a jump. */
#define STAY() __asm__ volatile("" ::: "memory")

enum root { ROOT_CHURN, ROOT_SHORT, ROOT_LOADER };

struct kept {
    void *address;
    uint32_t path;
    int16_t plugin; /* −1: none */
    uint16_t root;
};

/* Not malloc's: its blocks are counted. Threads take places in it one by one. */
static struct kept kept[1 << 18];
static unsigned kept_count;

static volatile bool stop;
static unsigned long threads_run, children_run, plugins_run, paths_run;
static int plugin_count;
static char **plugins;
static const char *log_file;

static _Thread_local uint64_t random_state;

static uint32_t random_below(uint32_t limit) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((random_state >> 33) % limit);
}

/* What a block is kept as; −1 in `kept_as`: it is freed. */
static _Thread_local int kept_as, current_plugin;
static _Thread_local enum root current_root;

SHAPE static void take_block(unsigned long path) {
    void *block = malloc(48);

    STAY();
    if (!block)
        abort();
    if (kept_as >= 0 && kept_as < (int)(sizeof(kept) / sizeof(kept[0])))
        kept[kept_as] = (struct kept){block, (uint32_t)path, (int16_t)current_plugin, (uint16_t)current_root};
    else
        free(block);
}

SHAPE static void branch(unsigned long path, unsigned long bits, unsigned levels);

SHAPE static void branch_left(unsigned long path, unsigned long bits, unsigned levels) {
    branch(path, bits, levels);
    STAY();
}

SHAPE static void branch_right(unsigned long path, unsigned long bits, unsigned levels) {
    volatile char room[40];

    room[0] = 1;
    branch(path, bits, levels);
    room[1] = 2;
    STAY();
}

SHAPE static void branch(unsigned long path, unsigned long bits, unsigned levels) {
    if (levels == 0)
        take_block(path);
    else if (bits & 1)
        branch_left(path, bits >> 1, levels - 1);
    else
        branch_right(path, bits >> 1, levels - 1);
    STAY();
}

SHAPE static void walk_path(unsigned one_in) {
    const uint32_t path = random_below(PATHS);

    kept_as = random_below(one_in) == 0 ? (int)__sync_fetch_and_add(&kept_count, 1) : -1;
    branch(path, path, LEVELS);
    __sync_fetch_and_add(&paths_run, 1);
}

SHAPE static void *churn(void *arg) {
    random_state = (uintptr_t)arg;
    current_plugin = -1;
    current_root = ROOT_CHURN;
    while (!stop)
        walk_path(2000);
    STAY();
    return NULL;
}

SHAPE static void *short_lived(void *arg) {
    random_state = (uintptr_t)arg * 7919;
    current_plugin = -1;
    current_root = ROOT_SHORT;
    for (int i = 0; i < 4; i++)
        walk_path(64);
    STAY();
    return NULL;
}

static void from_plugin(unsigned long path) {
    take_block(path);
    STAY();
}

SHAPE static void *loader(void *arg) {
    random_state = (uintptr_t)arg;
    current_root = ROOT_LOADER;
    while (!stop) {
        void (*run)(unsigned long, void (*)(unsigned long));
        void *plugin;

        current_plugin = (int)random_below((uint32_t)plugin_count);
        plugin = dlopen(plugins[current_plugin], RTLD_NOW | RTLD_LOCAL);
        if (!plugin)
            abort();
        run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
        kept_as = random_below(16) == 0 ? (int)__sync_fetch_and_add(&kept_count, 1) : -1;
        run(0, from_plugin);
        dlclose(plugin);
        __sync_fetch_and_add(&plugins_run, 1);
    }
    STAY();
    return NULL;
}

static void pause_ns(long ns) {
    const struct timespec time = {.tv_nsec = ns};

    nanosleep(&time, NULL);
}

/* On a machine that has the time some 500 threads a second: more than 90,000 in 270. */
static void *spawner(void *arg) {
    uintptr_t number = 1;

    (void)arg;
    while (!stop) {
        pthread_t threads[8];

        for (int i = 0; i < 8; i++)
            if (pthread_create(&threads[i], NULL, short_lived, (void *)number++))
                abort();
        for (int i = 0; i < 8; i++)
            pthread_join(threads[i], NULL);
        threads_run += 8;
        pause_ns(10000000);
    }
    return NULL;
}

static void *forker(void *arg) {
    (void)arg;
    while (!stop) {
        const pid_t child = fork();

        if (child == 0) {
            random_state = (uint64_t)getpid();
            current_plugin = -1;
            for (int i = 0; i < 100; i++) {
                const uint32_t path = random_below(PATHS);

                kept_as = -1;
                branch(path, path, LEVELS);
            }
            _exit(0);
        }
        if (child < 0 || waitpid(child, NULL, 0) != child)
            abort();
        children_run++;
        pause_ns(100000000);
    }
    return NULL;
}

static int write_log(void) {
    static const char *const roots[] = {"churn", "short_lived", "loader"};
    FILE *log = fopen(log_file, "we");
    unsigned i;

    if (!log)
        return 1;
    for (i = 0; i < kept_count && i < sizeof(kept) / sizeof(kept[0]); i++) {
        fprintf(log, "%lx take_block", (unsigned long)kept[i].address);
        if (kept[i].plugin >= 0)
            fprintf(log, " from_plugin plugin_%d_inner plugin_%d_outer plugin_run", kept[i].plugin, kept[i].plugin);
        else
            for (int level = LEVELS - 1; level >= -1; level--)
                fprintf(log, " branch%s",
                        level < 0                   ? ""
                        : kept[i].path >> level & 1 ? " branch_left"
                                                    : " branch_right");
        if (kept[i].plugin < 0)
            fprintf(log, " walk_path");
        fprintf(log, " %s\n", roots[kept[i].root]);
    }
    return fclose(log);
}

static void wait_for_line(void) {
    char line[64];

    if (!fgets(line, sizeof(line), stdin))
        exit(1);
}

int main(int argc, char **argv) {
    pthread_t threads[5];
    void *(*const work[5])(void *) = {churn, loader, loader, spawner, forker};
    size_t i;

    if (argc < 4)
        return 2;
    log_file = argv[2];
    plugins = argv + 3;
    plugin_count = argc - 3;
    printf("{\"pid\": %d}\n", getpid());
    fflush(stdout);
    wait_for_line();
    for (i = 0; i < 5; i++)
        if (pthread_create(&threads[i], NULL, work[i], (void *)(i + 1)))
            return 1;
    for (int left = atoi(argv[1]); left > 0; left = (int)sleep((unsigned)left))
        ;
    stop = true;
    for (i = 0; i < 5; i++)
        pthread_join(threads[i], NULL);
    if (write_log())
        return 1;
    printf("{\"done\": true, \"threads\": %lu, \"children\": %lu, \"plugins\": %lu, \"paths\": %lu, \"kept\": %u}\n",
           threads_run, children_run, plugins_run, paths_run, kept_count);
    fflush(stdout);
    wait_for_line();
    return 0;
}
