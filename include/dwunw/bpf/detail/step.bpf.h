/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * One step of the walk: from a frame to its caller.
 *
 *     pc, SP, FP --(cache, or mapping and table)--> rule --> CFA --> the words at CFA - 8 (pc) and, say, CFA - 16 (FP)
 *
 * A step that a rule does not decide ends the walk with a reason.
 */
#ifndef DWUNW_BPF_DETAIL_STEP_H
#define DWUNW_BPF_DETAIL_STEP_H

#include "arch.bpf.h"
#include "table.bpf.h"
#include "words.bpf.h"

static __always_inline int dwunw_stop(struct dwunw_walk *walk, __u32 reason) {
    walk->reason = reason;
    walk->ended = 1;
    return 1;
}

static __always_inline struct dwunw_mapping *dwunw_mapping_at(__u32 first, __u32 count, __u64 address) {
    __u32 low = 0, high = count, index, i;
    struct dwunw_mapping *mapping;

    /* The first mapping that ends behind the address. */
    for (i = 0; i < DWUNW_BPF_MAPPING_STEPS && low < high; i++) {
        const __u32 middle = (low + high) / 2;

        index = first + middle;
        mapping = bpf_map_lookup_elem(&dwunw_mappings, &index);
        if (!mapping)
            return 0;
        if (mapping->end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low >= count)
        return 0;
    index = first + low;
    mapping = bpf_map_lookup_elem(&dwunw_mappings, &index);
    return mapping && mapping->start <= address ? mapping : 0;
}

/* Sets walk->mapping to the mapping that holds an address. 0: there is none. */
static __noinline int dwunw_locate(struct dwunw_walk *walk, __u64 address) {
    struct dwunw_mapping *found;

    if (address >= walk->mapping.start && address < walk->mapping.end)
        return 1;
    found = dwunw_mapping_at(walk->first, walk->count, address);
    if (!found) {
        walk->mapping.start = walk->mapping.end = 0;
        return 0;
    }
    walk->mapping = *found;
    return 1;
}

/* Sets walk->pc to the return address that the kernel has replaced at walk->slot. 0: no pending return has it. */
static __noinline int dwunw_take_pending(struct dwunw_walk *walk) {
    struct dwunw_bpf_pending pending;
    __u64 instance = walk->pending;
    __u32 i;

    if (!walk->pending_begun)
        instance = dwunw_first_pending();
    walk->pending_begun = 1;
    for (i = 0; i < DWUNW_BPF_PENDING_MAX && instance; i++) {
        instance = dwunw_read_pending(instance, &pending);
        if (pending.slot == walk->slot) {
            walk->pending = instance;
            walk->pc = pending.return_address;
            return 1;
        }
    }
    return 0;
}

static __always_inline __u64 dwunw_cache_key(const struct dwunw_walk *walk, __u64 pc) {
    return pc << (1 + DWUNW_BPF_GENERATION_BITS) | (__u64)walk->exact << DWUNW_BPF_GENERATION_BITS | walk->generation;
}

static __always_inline struct dwunw_cached_rule *dwunw_cached(__u64 pc) {
    __u32 index = pc * DWUNW_HASH_FACTOR >> (64 - DWUNW_BPF_CACHE_BITS);

    return bpf_map_lookup_elem(&dwunw_rules, &index);
}

/*
 * Whether walk->pc may be a return address that follows no call. `rule` is the rule of the byte before it.
 *
 * A signal handler returns to the first byte of a trampoline. If the trampoline has no call-frame information, as in
 * musl, the byte before it belongs to another function. libgcc returns to a landing pad. If the byte at pc has the same
 * rule, it does not matter.
 */
static __noinline int dwunw_may_be_no_call(struct dwunw_walk *walk, __u64 rule) {
    const __u64 pc = walk->pc, behind = dwunw_table_rule(walk->mapping.table, pc - walk->mapping.origin);
    __u64 code;

    if (behind == rule)
        return 0;
    if (!behind && !bpf_probe_read_user(&code, sizeof(code), (void *)pc) && code == DWUNW_SIGNAL_CODE)
        return 1;
    if (pc >= walk->mapping.end)
        return 0;
    return bpf_probe_read_user(&code, sizeof(code), (void *)(pc - DWUNW_CALL_BYTES)) || !DWUNW_IS_CALL(code);
}

/* The rule at walk->pc. Replaces the uretprobe trampoline by the pending return first. 0: the walk ends. */
DWUNW_SHARED __noinline __u64 dwunw_find_rule(void) {
    struct dwunw_walk *walk = dwunw_scratch(0);
    struct dwunw_cached_rule *entry;
    __u64 rule;
    int mapped;

    if (!walk)
        return 0;
    walk->misses++;
    mapped = dwunw_locate(walk, walk->pc - !walk->exact);
    /* The byte before the trampoline belongs to another mapping, or to none. */
    if (!walk->exact && (!mapped || walk->pc >= walk->mapping.end) && walk->pc == dwunw_return_trampoline()) {
        if (!dwunw_take_pending(walk)) {
            dwunw_stop(walk, DWUNW_BPF_TRAMPOLINE);
            return 0;
        }
        walk->trampolines++;
        walk->repaired = 1;
        if (!walk->pc) {
            dwunw_stop(walk, DWUNW_BPF_COMPLETE);
            return 0;
        }
        mapped = dwunw_locate(walk, walk->pc - 1);
    }
    if (!mapped) {
        /* Only the lasting mappings are valid now; or only a part of the mappings is published. */
        dwunw_stop(walk, walk->lasting      ? DWUNW_BPF_CHANGED
                         : walk->incomplete ? DWUNW_BPF_NOT_PUBLISHED
                                            : DWUNW_BPF_NO_MAPPING);
        return 0;
    }
    if (walk->mapping.kind != DWUNW_MAPPING_MODULE) {
        dwunw_stop(walk, walk->mapping.kind);
        return 0;
    }
    rule = dwunw_table_rule(walk->mapping.table, walk->pc - !walk->exact - walk->mapping.origin);
    if (!rule) {
        dwunw_stop(walk, DWUNW_BPF_GAP);
        return 0;
    }
    if (!walk->exact && dwunw_may_be_no_call(walk, rule)) {
        dwunw_stop(walk, DWUNW_BPF_NO_CALL);
        return 0;
    }
    /* Do not cache a return address at the mapping's end: the kernel may later place the trampoline there. */
    entry = dwunw_cached(walk->pc);
    if (entry && walk->pc < walk->mapping.end && !(walk->pc >> DWUNW_BPF_PC_BITS)) {
        *(volatile __u64 *)&entry->rule = rule;
        *(volatile __u64 *)&entry->key = dwunw_cache_key(walk, walk->pc) ^ dwunw_mix(rule);
    }
    return rule;
}

/*
 * Writes the current frame and moves to its caller. Returns 1 when the walk has ended.
 */
static __always_inline int dwunw_step(struct dwunw_walk *walk) {
    __u64 pc = walk->pc, sp = walk->sp, fp = walk->fp, rule, cfa, slot, outer, word;
    __u32 cfa_kind, kind, count, fp_known = walk->fp_known;
    struct dwunw_cached_rule *entry;

    entry = dwunw_cached(pc);
    if (!entry)
        return dwunw_stop(walk, DWUNW_BPF_NO_TABLE);
    rule = *(volatile __u64 *)&entry->rule;
    word = *(volatile __u64 *)&entry->key;
    /* With 5-level paging, the page of the uretprobe trampoline has an address with more bits than the key holds. */
    if (pc >> DWUNW_BPF_PC_BITS || (word ^ dwunw_mix(rule)) != dwunw_cache_key(walk, pc)) {
        rule = dwunw_find_rule();
        if (!rule)
            return 1;
        pc = walk->pc;
    }

    count = walk->stack.count;
    if (count >= dwunw_settings.max_frames)
        return dwunw_stop(walk, DWUNW_BPF_FRAME_LIMIT);
    word = pc;
    if (walk->exact)
        word |= DWUNW_BPF_FRAME_EXACT;
    if (rule & DWUNW_RULE_SIGNAL)
        word |= DWUNW_BPF_FRAME_SIGNAL;
    if (walk->repaired)
        word |= DWUNW_BPF_FRAME_TRAMPOLINE;
    walk->repaired = 0;
    walk->stack.frames[count & (DWUNW_BPF_MAX_FRAMES - 1)] = word;
    walk->stack.count = count + 1;
    walk->hash = dwunw_hash(walk->hash, word);

    cfa_kind = rule & 7;
    if (cfa_kind >= DWUNW_RULE_CFA_ROOT)
        return dwunw_stop(walk, cfa_kind == DWUNW_RULE_CFA_ROOT ? DWUNW_BPF_COMPLETE : DWUNW_BPF_COMPLEX);
    cfa = DWUNW_RULE_FIELD(rule, CFA_OFFSET);
    if (cfa_kind == DWUNW_RULE_CFA_FP || cfa_kind == DWUNW_RULE_CFA_AT_FP) {
        if (!fp_known)
            return dwunw_stop(walk, DWUNW_BPF_REGISTER);
        cfa += fp;
    } else {
        cfa += sp;
    }
    if (cfa_kind == DWUNW_RULE_CFA_AT_SP || cfa_kind == DWUNW_RULE_CFA_AT_FP) {
        if (dwunw_read_word(walk, cfa, &word))
            return dwunw_stop(walk, DWUNW_BPF_UNREADABLE);
        cfa = word + 8 * DWUNW_RULE_FIELD(rule, ADDEND);
    } else if (cfa_kind != DWUNW_RULE_CFA_FP) {
        if (cfa_kind == DWUNW_RULE_CFA_PLT && (pc & 15) >= (__u64)DWUNW_RULE_FIELD(rule, ADDEND))
            cfa += 8;
        if (cfa <= sp)
            return dwunw_stop(walk, DWUNW_BPF_NO_PROGRESS);
    }

    slot = DWUNW_RULE_FIELD(rule, RA_OFFSET);
    kind = rule >> DWUNW_RULE_RA_SHIFT & 3;
    if (kind == DWUNW_RULE_RA_AT_CFA) {
        slot += cfa;
    } else if (kind == DWUNW_RULE_RA_AT_SP) {
        slot += sp;
    } else {
        if (kind != DWUNW_RULE_RA_AT_FP)
            return dwunw_stop(walk, DWUNW_BPF_COMPLEX);
        if (!fp_known)
            return dwunw_stop(walk, DWUNW_BPF_REGISTER);
        slot += fp;
    }

    kind = rule >> DWUNW_RULE_FP_SHIFT & 7;
    if (kind != DWUNW_RULE_FP_SAME) {
        word = DWUNW_RULE_FIELD(rule, FP_OFFSET);
        if (kind == DWUNW_RULE_FP_AT_CFA || kind == DWUNW_RULE_FP_CFA_PLUS)
            word += cfa;
        else if (kind == DWUNW_RULE_FP_AT_SP)
            word += sp;
        else
            word += fp;
        if (kind == DWUNW_RULE_FP_UNDEFINED || (kind == DWUNW_RULE_FP_AT_FP && !fp_known)) {
            fp_known = 0;
        } else if (kind == DWUNW_RULE_FP_CFA_PLUS) {
            fp = word;
            fp_known = 1;
        } else {
            if (dwunw_read_word(walk, word, &fp))
                return dwunw_stop(walk, DWUNW_BPF_UNREADABLE);
            fp_known = 1;
        }
    }
    if (dwunw_read_word(walk, slot, &outer))
        return dwunw_stop(walk, DWUNW_BPF_UNREADABLE);
    outer = DWUNW_RETURN_ADDRESS(outer);
    /* A return address of 0 is the root. But a signal may have interrupted a call through a null pointer: then 0 is
       the interrupted pc. */
    if (!outer && !(rule & DWUNW_RULE_SIGNAL))
        return dwunw_stop(walk, DWUNW_BPF_COMPLETE);
    if (outer == pc && cfa == walk->last_cfa)
        return dwunw_stop(walk, DWUNW_BPF_NO_PROGRESS);
    walk->last_cfa = cfa;
    walk->exact = rule & DWUNW_RULE_SIGNAL ? 1 : 0;
    walk->slot = slot;
    walk->pc = outer;
    walk->sp = cfa;
    walk->fp = fp;
    walk->fp_known = fp_known;
    return 0;
}

#ifndef DWUNW_BPF_OLD
struct dwunw_loop {
    struct dwunw_walk *walk;
};

static long dwunw_loop_step(__u32 index, struct dwunw_loop *loop) {
    (void)index;
    return dwunw_step(loop->walk);
}
#endif

/* Global, so that the verifier checks it once and the loop around it costs the verifier next to nothing. */
DWUNW_SHARED __noinline int dwunw_step_alone(void) {
    struct dwunw_walk *walk = dwunw_scratch(0);

    return walk ? dwunw_step(walk) : 1;
}

static __always_inline void dwunw_walk_frames(struct dwunw_walk *walk) {
    __u32 i;

#ifndef DWUNW_BPF_OLD
    if (dwunw_settings.use_bpf_loop) {
        struct dwunw_loop loop = {.walk = walk};

        /* One step more than there may be frames: the last step stops with DWUNW_BPF_FRAME_LIMIT. */
        bpf_loop(DWUNW_BPF_MAX_FRAMES + 1, dwunw_loop_step, &loop, 0);
        return;
    }
#endif
    for (i = 0; i < DWUNW_BPF_MAX_FRAMES_OLD + 1; i++)
        if (dwunw_step_alone())
            break;
}

#endif /* DWUNW_BPF_DETAIL_STEP_H */
