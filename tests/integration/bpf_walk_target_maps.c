// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* Subjects of bpf_walk_target in which the map changes, or code has no file. */
#define _GNU_SOURCE
#include "bpf_walk_target.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* storm COUNT FILE FILE: plugins that take each other's place */
static void from_plugin(unsigned long number) {
    call(number);
    STAY();
}

SHAPE static void storm_once(unsigned long number, const char *file) {
    void *plugin = dlopen(file, RTLD_NOW);
    void (*run)(unsigned long, void (*)(unsigned long));

    if (!plugin)
        exit(3);
    run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
    plugin_name = file;
    run(number, from_plugin);
    plugin_name = "";
    dlclose(plugin);
}

void do_storm(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    const char *pause = argument[3];
    unsigned i;

    for (i = 0; i < count; i++) {
        storm_once(i * 2, argument[1 + i % 2]);
        call(i * 2 + 1);
        /* Now and then long enough for what is loaded to be published. */
        if (pause && i % 8 == 7)
            usleep((useconds_t)atoi(pause));
    }
}

/* stays COUNT FILE MICROSECONDS: one plugin, for so long that it gets to be walked in the kernel */
void do_stays(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    void *plugin = dlopen(argument[1], RTLD_NOW);
    void (*run)(unsigned long, void (*)(unsigned long));
    unsigned i;

    if (!plugin)
        exit(3);
    run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
    plugin_name = argument[1];
    for (i = 0; i < count; i++) {
        run(i, from_plugin);
        usleep((useconds_t)atoi(argument[2]));
    }
}

/* exec COUNT: this program again and again */
void do_exec(char **argument) {
    const unsigned left = (unsigned)atoi(argument[0]);
    char number[16];

    descend(left, 6);
    if (left == 0)
        return;
    fflush(stdout);
    snprintf(number, sizeof(number), "%u", left - 1);
    execl("/proc/self/exe", "bpf_walk_target", "exec", number, "again", NULL);
    exit(4);
}

/* fork COUNT: children that call, one after the other */
void do_fork(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    unsigned i;

    for (i = 0; i < count; i++) {
        pid_t child;

        fflush(stdout);
        child = fork();
        if (child == 0) {
            descend(i, 7);
            fflush(stdout);
            _exit(0);
        }
        waitpid(child, NULL, 0);
        descend(1000 + i, 7);
    }
}

/* push rbp; mov rbp, rsp; call rsi; pop rbp; ret */
static const unsigned char with_frame_pointer[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd6, 0x5d, 0xc3};

static void run_page(void *page, unsigned count) {
    unsigned i;

    tell = false; /* libgcc has no rule for that page */
    for (i = 0; i < count; i++) {
        ((void (*)(unsigned long, void (*)(unsigned long)))page)(i % 4, from_plugin);
        usleep(1000);
    }
}

/* jit COUNT: by way of code without a file, which has no call-frame information */
void do_jit(char **argument) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        exit(5);
    memcpy(page, with_frame_pointer, sizeof(with_frame_pointer));
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    run_page(page, (unsigned)atoi(argument[0]));
}

/* blob COUNT: by way of code in a file that is no ELF image */
void do_blob(char **argument) {
    char name[] = "/tmp/bpf_walk_blob_XXXXXX";
    static char pages[8192] = "no ELF image";
    const int fd = mkstemp(name);
    void *page;

    memcpy(pages + 4096, with_frame_pointer, sizeof(with_frame_pointer));
    if (fd < 0 || write(fd, pages, sizeof(pages)) != sizeof(pages))
        exit(6);
    page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 4096);
    unlink(name);
    if (page == MAP_FAILED)
        exit(6);
    run_page(page, (unsigned)atoi(argument[0]));
}

/* The code of a file becomes memory without one, at the same place. */
static void move_text(const char *file) {
    const char *name = strrchr(file, '/');
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long start, end;
    char line[4096];

    while (maps && fgets(line, sizeof(line), maps)) {
        void *copy;

        if (!strstr(line, name) || !strstr(line, " r-xp ") || sscanf(line, "%lx-%lx", &start, &end) != 2)
            continue;
        copy = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy == MAP_FAILED)
            exit(7);
        memcpy(copy, (void *)start, end - start);
        mprotect(copy, end - start, PROT_READ | PROT_EXEC);
        if (mremap(copy, end - start, end - start, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)start) != (void *)start)
            exit(7);
        fclose(maps);
        return;
    }
    exit(7);
}

/* moved COUNT FILE FILE: a plugin's code is moved to memory without a file, after a third of its calls */
void do_moved(char **argument) {
    const unsigned count = (unsigned)atoi(argument[0]);
    void *plugin = dlopen(argument[1], RTLD_NOW);
    void (*run)(unsigned long, void (*)(unsigned long));
    unsigned i;

    if (!plugin)
        exit(7);
    run = (void (*)(unsigned long, void (*)(unsigned long)))dlsym(plugin, "plugin_run");
    plugin_name = argument[1];
    for (i = 0; i < count; i++) {
        if (i == count / 3) {
            move_text(argument[1]);
            if (!dlopen(argument[2], RTLD_NOW)) /* the map is looked at again */
                exit(7);
        }
        run(i, from_plugin);
        usleep(2000);
    }
}
