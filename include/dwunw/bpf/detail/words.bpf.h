/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Words of the stack. A walk reads pieces of DWUNW_BPF_WINDOW bytes and takes words out of them:
 *
 *     window_start                       window_start + window_size
 *     |  red zone  |  the next frames      |
 *                  ^ the word that was asked for
 */
#ifndef DWUNW_BPF_DETAIL_WORDS_H
#define DWUNW_BPF_DETAIL_WORDS_H

#include "kernel.bpf.h"

/* Moves the window to an address. A read fails as a whole if a part of it fails; then reads only to the page's end. */
DWUNW_SHARED __noinline int dwunw_read_beyond(__u64 address) {
    struct dwunw_walk *walk = dwunw_scratch(0);
    __u64 start = address, in_page;

    if (!walk)
        return 1;
    if (address & 7)
        return bpf_probe_read_user(&walk->word, sizeof(walk->word), (void *)address) ? 1 : 0;
    /* Callee-saved registers lie below return addresses, and the red zone below SP: begin a little lower. */
    if ((address & (DWUNW_BPF_PAGE - 1)) >= DWUNW_BPF_RED_ZONE)
        start -= DWUNW_BPF_RED_ZONE;
    walk->window_start = start;
    walk->window_size = DWUNW_BPF_WINDOW;
    if (bpf_probe_read_user(walk->window, DWUNW_BPF_WINDOW, (void *)start)) {
        walk->window_size = 0;
        in_page = DWUNW_BPF_PAGE - (start & (DWUNW_BPF_PAGE - 1));
        barrier_var(in_page);
        if (in_page >= DWUNW_BPF_WINDOW || bpf_probe_read_user(walk->window, in_page, (void *)start))
            return 1;
        walk->window_size = in_page;
    }
    address -= walk->window_start;
    if (address >= walk->window_size)
        return 1;
    walk->word = walk->window[address / 8 & (DWUNW_BPF_WINDOW / 8 - 1)];
    return 0;
}

static __always_inline int dwunw_read_word(struct dwunw_walk *walk, __u64 address, __u64 *value) {
    const __u64 offset = address - walk->window_start;

    if (offset < walk->window_size && !(offset & 7)) {
        *value = walk->window[offset / 8 & (DWUNW_BPF_WINDOW / 8 - 1)];
        return 0;
    }
    if (dwunw_read_beyond(address))
        return 1;
    *value = walk->word;
    return 0;
}

#endif /* DWUNW_BPF_DETAIL_WORDS_H */
