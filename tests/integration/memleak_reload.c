// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// memleak_reload A B: leaks 3000 blocks of 1234 bytes through plugin A, each with another stack, unloads A, and leaks
// as many of 2345 bytes through plugin B in its place. Waits for a line before its work ("ready PID") and after it
// ("done", or "elsewhere" if B has another address).
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_for_line(void) {
    char c;
    while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
        ;
}

__attribute__((noinline, noclone)) static void *leak_through(const char *path, size_t size, uintptr_t *place) {
    void *plugin = dlopen(path, RTLD_NOW);
    void (*leak)(long, size_t) = plugin ? (void (*)(long, size_t))dlsym(plugin, "plugin_leak") : NULL;
    if (!leak) {
        fputs(dlerror(), stderr);
        exit(1);
    }
    for (long i = 0; i < 3000; i++)
        leak(i, size);
    *place = (uintptr_t)leak;
    return plugin;
}

int main(int argc, char **argv) {
    char line[256];
    uintptr_t a, b;
    void *plugin;
    setvbuf(stdout, line, _IOLBF, sizeof(line));
    if (argc != 3)
        return 1;
    printf("ready %d\n", getpid());
    wait_for_line();
    plugin = leak_through(argv[1], 1234, &a);
    dlclose(plugin);
    leak_through(argv[2], 2345, &b);
    puts(a == b ? "done" : "elsewhere");
    wait_for_line();
    return 0;
}
