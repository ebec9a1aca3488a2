/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* libdwunw_probe used from C: where a probe on one of this program's functions goes. */
#include <dwunw/bpf_attach.h>
#include <dwunw/probe_placement.h>

#include <stdio.h>
#include <stdlib.h>

/* Begins as glibc's free does. Exported by its symbol, so that a release build keeps it. */
__attribute__((noinline, used)) int probed(void *block) {
    if (!block)
        return 0;
    return puts((const char *)block);
}

int main(void) {
    struct dwunw_probe_placement placement = {.size = sizeof(placement)};
    struct dwunw_attach_plan plan = {.size = sizeof(plan)};
    struct dwunw_attach_programs programs = {.size = sizeof(programs), .form = DWUNW_ATTACH_SESSION};
    struct dwunw_probe_file *file = NULL;

    if (dwunw_probe_file_open("/proc/self/exe", &file) != DWUNW_OK ||
        dwunw_probe_place_symbol(file, "probed", NULL, &placement) != DWUNW_OK || placement.reason[0] == '\0')
        return EXIT_FAILURE;
    printf("probed: %s\n", placement.reason);
    dwunw_probe_file_close(file);
    /* Without a program for it. */
    if (dwunw_attach_prepare(&programs, &plan) != DWUNW_ERR_INVALID_ARGUMENT)
        return EXIT_FAILURE;
    return EXIT_SUCCESS;
}
