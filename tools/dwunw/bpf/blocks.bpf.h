/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The outstanding blocks: address and process → size, stack, birth.
 *
 *     tables     0          1                  2            sizes: tools/dwunw/memleak/blocks.cc
 *     buckets    |.|.|.|    |.|.|.|.|.|.|      …
 *     a bucket   8 keys, then 8 blocks
 *
 * A key may stand in either of two buckets of a table, in any slot. Looking for a key reads two cache lines of each
 * table. A new block goes to the emptier of the two buckets of the first table that has room; with two buckets of eight
 * slots to choose from, a table becomes about 95 % full before that fails. User space adds a table in time
 * (MEMLEAK_EVENT_GROW), so the memory follows the number of blocks.
 *
 * A kernel hash needs 48 bytes for each element besides key and value, and all of them from the start. Its iteration
 * starts again when the element at hand is deleted, so a report of a busy program would count twice. Here a block stays
 * in its slot from its allocation to its free, and user space maps the tables and reads each slot once.
 *
 * No locks. A writer claims an empty slot by an atomic exchange of its key (0 → key | MEMLEAK_KEY_BUSY), writes the
 * block, and then the key. A free takes the key away by an atomic exchange (key → 0): only one of two frees gets the
 * block. The reader takes a block only if the key before and after it is the same.
 *
 * Proved by tests/integration/memleak_command_test.py.
 */
#ifndef DWUNW_TOOL_BLOCKS_BPF_H
#define DWUNW_TOOL_BLOCKS_BPF_H

#include "events.bpf.h"

struct memleak_table {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, sizeof(struct memleak_bucket));
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, MEMLEAK_TABLES);
    __type(key, __u32);
    __array(values, struct memleak_table);
} memleak_tables SEC(".maps");

/* The number of buckets of each table; set by user space, before it raises the number of tables. */
__u32 memleak_table_buckets[MEMLEAK_TABLES] = {};
__u32 memleak_table_count = 0;

/* While a report reads: its beginning. Otherwise 0. */
__u64 memleak_report_began = 0;
/* MEMLEAK_EVENT_GROW was sent for this number of tables. */
__u32 memleak_growth_asked = 0;

static __always_inline struct memleak_bucket *memleak_bucket_at(__u32 table, __u32 bucket) {
    void *map = bpf_map_lookup_elem(&memleak_tables, &table);

    return map ? bpf_map_lookup_elem(map, &bucket) : 0;
}

/* The two buckets of a key in table `table`. */
static __always_inline __u32 memleak_bucket_of(__u64 hash, __u32 table, __u32 second) {
    const __u64 part = second ? hash >> 32 : hash & 0xffffffff;

    return part * memleak_table_buckets[table] >> 32;
}

static __always_inline __u32 memleak_slot_of(const struct memleak_bucket *bucket, __u64 key) {
    __u32 i;

    for (i = 0; i < MEMLEAK_SLOTS; i++)
        if (*(volatile const __u64 *)&bucket->keys[i] == key)
            break;
    return i;
}

/* The place of a key; 0: it is not in the tables. Global: the verifier checks it once. */
__noinline __u64 memleak_find(__u64 key) {
    const __u64 hash = dwunw_mix(key);
    __u32 i;

    for (i = 0; i < 2 * MEMLEAK_TABLES; i++) {
        const __u32 table = i / 2;
        struct memleak_bucket *bucket;
        __u32 number, slot;

        if (table >= memleak_table_count)
            break;
        number = memleak_bucket_of(hash, table, i & 1);
        bucket = memleak_bucket_at(table, number);
        if (!bucket)
            break;
        slot = memleak_slot_of(bucket, key);
        if (slot < MEMLEAK_SLOTS)
            return MEMLEAK_PLACE(table, number, slot);
    }
    return 0;
}

/* Which slots of a bucket are empty, as a mask. Without branches: the verifier would follow each combination. */
static __always_inline __u32 memleak_empty_slots(const struct memleak_bucket *bucket) {
    __u32 mask = 0, i;

    for (i = 0; i < MEMLEAK_SLOTS; i++) {
        const __u64 key = *(volatile const __u64 *)&bucket->keys[i];

        mask |= (__u32)(~(key | -key) >> 63) << i;
    }
    barrier_var(mask);
    return mask;
}

static __always_inline __u32 memleak_bits(__u32 mask) {
    mask = (mask & 0x55) + (mask >> 1 & 0x55);
    mask = (mask & 0x33) + (mask >> 2 & 0x33);
    return (mask & 0x0f) + (mask >> 4);
}

/* The number of the highest bit of a mask of eight that is not 0. */
static __always_inline __u32 memleak_highest(__u32 mask) {
    mask |= mask >> 1;
    mask |= mask >> 2;
    mask |= mask >> 4;
    return memleak_bits(mask) - 1;
}

/* An empty slot for a key; 0: there is none. */
__noinline __u64 memleak_find_room(__u64 key) {
    const __u64 hash = dwunw_mix(key);
    __u32 table;

    for (table = 0; table < MEMLEAK_TABLES; table++) {
        struct memleak_bucket *first, *second;
        __u32 one, other, empty, empty_other, number;

        if (table >= memleak_table_count)
            break;
        one = memleak_bucket_of(hash, table, 0);
        other = memleak_bucket_of(hash, table, 1);
        first = memleak_bucket_at(table, one);
        second = memleak_bucket_at(table, other);
        if (!first || !second)
            break;
        empty = memleak_empty_slots(first);
        empty_other = memleak_empty_slots(second);
        number = one;
        if (memleak_bits(empty_other) > memleak_bits(empty)) {
            empty = empty_other;
            number = other;
        }
        if (empty)
            return MEMLEAK_PLACE(table, number, memleak_highest(empty));
    }
    return 0;
}

static __always_inline struct memleak_bucket *memleak_bucket_of_place(__u64 place) {
    return memleak_bucket_at(MEMLEAK_PLACE_TABLE(place), MEMLEAK_PLACE_BUCKET(place));
}

/* Writes a block into a slot whose key is `from` now. 0: another CPU was faster. */
static __always_inline int memleak_write(__u64 place, __u64 from, __u64 key, const struct memleak_block *block) {
    struct memleak_bucket *bucket = memleak_bucket_of_place(place);
    const __u32 slot = MEMLEAK_PLACE_SLOT(place);

    if (!bucket || __sync_val_compare_and_swap(&bucket->keys[slot], from, key | MEMLEAK_KEY_BUSY) != from)
        return 0;
    bucket->blocks[slot] = *block;
    /* An exchange, because it orders the writes before it. */
    __sync_lock_test_and_set(&bucket->keys[slot], key);
    return 1;
}

static __always_inline int memleak_empty(struct memleak_bucket *bucket, __u32 slot, __u64 key) {
    return __sync_val_compare_and_swap(&bucket->keys[slot], key, 0) == key;
}

/*
 * Takes a block out. 0: it is not there.
 *
 * While a report reads, it is told of each block that was alive at its beginning, with the slot's place, because it may
 * not have read that slot yet. The event is reserved before the block goes: a reader that misses the block and then
 * empties the ring buffer finds the event.
 */
static __always_inline int memleak_take(__u64 key, struct memleak_block *block) {
    const __u64 place = memleak_find(key), began = *(volatile __u64 *)&memleak_report_began;
    const __u32 slot = MEMLEAK_PLACE_SLOT(place);
    struct memleak_event *event = 0;
    struct memleak_bucket *bucket;

    if (!place)
        return 0;
    bucket = memleak_bucket_of_place(place);
    if (!bucket)
        return 0;
    *block = bucket->blocks[slot];
    if (began && block->born < began)
        event = memleak_reserve(MEMLEAK_EVENT_FREED, MEMLEAK_SNAPSHOTS_LOST);
    /* Two paths, each with its exchange: where they meet, the verifier of Linux 6.1 forgets whether there is an event.
     */
    if (event) {
        event->process = key & MEMLEAK_PROCESSES;
        event->address = key >> MEMLEAK_PROCESS_BITS;
        event->length = block->size;
        event->stack = block->stack;
        event->detail = block->born;
        event->old = place;
        barrier();
        if (!memleak_empty(bucket, slot, key)) {
            bpf_ringbuf_discard(event, 0);
            return 0;
        }
        bpf_ringbuf_submit(event, 0);
    } else if (!memleak_empty(bucket, slot, key)) {
        return 0;
    }
    memleak_count(MEMLEAK_REMOVED, 1);
    return 1;
}

#define MEMLEAK_TRIES 4

/* Stores a block under its key, and returns its place; 0: there is no room. If the key is there already, its free was
   not seen: the new block replaces the old. */
static __noinline __u64 memleak_store(__u64 key, const struct memleak_block *block) {
    __u64 place = memleak_find(key);
    __u32 i;

    if (place && memleak_write(place, key, key, block)) {
        memleak_count(MEMLEAK_REPLACED, 1);
        return place;
    }
    for (i = 0; i < MEMLEAK_TRIES; i++) {
        place = memleak_find_room(key);
        if (!place)
            break;
        if (memleak_write(place, 0, key, block)) {
            memleak_count(MEMLEAK_STORED, 1);
            return place;
        }
    }
    memleak_count(MEMLEAK_NO_ROOM, 1);
    return 0;
}

#endif
