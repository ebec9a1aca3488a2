/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What every part of the walk needs: hashes, and how functions and maps are shared.
 *
 * The verifier checks a global function once, by itself. It checks a static function at each call, for each state that
 * can reach the call. So a function is global unless it is on the path of a stack whose rules are all cached.
 */
#ifndef DWUNW_BPF_DETAIL_BASICS_H
#define DWUNW_BPF_DETAIL_BASICS_H

#include <dwunw/bpf/dwunw_types.h>

#ifndef barrier_var
#define barrier_var(variable) __asm__ volatile("" : "+r"(variable))
#endif

/* Of several objects that are linked to one, the first one's definition is taken. */
#define DWUNW_SHARED __attribute__((weak))

#define DWUNW_HASH_FACTOR 0x9e3779b97f4a7c15ull

static __always_inline __u64 dwunw_mix(__u64 word) {
    word = (word ^ word >> 32) * DWUNW_HASH_FACTOR;
    return word ^ word >> 29;
}

static __always_inline __u64 dwunw_hash(__u64 hash, __u64 word) {
    hash = (hash ^ word) * DWUNW_HASH_FACTOR;
    return hash ^ hash >> 32;
}

static __always_inline __u64 dwunw_id(__u64 hash, __u64 left) {
    hash = (hash & (DWUNW_BPF_ID_LEFT - 1)) | left;
    return hash >> 32 ? hash : hash | 1ull << 32;
}

#endif /* DWUNW_BPF_DETAIL_BASICS_H */
