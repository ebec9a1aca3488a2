// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//
// How a report is of one moment. It sets report_began to its moment T. From then on the kernel half sends an event
// before it takes out a block that was born before T. The report reads the tables piece by piece, and after each piece
// takes in the events:
//
//     pieces           | read | read | being read | not read | not read |
//     an event about     was    was    compare       the block will not be found there:
//     a block there      seen   seen                 visit it now
//
// A block born after T is not of the report. So each block that was alive at T is visited once. Linux waits for running
// BPF programs when an element of an array of maps is updated; that update stands between setting report_began and
// reading, so no program that has not seen T takes out a block afterwards.
//
// The tables are mapped piece by piece, so that they do not count as memory of this program.
#include "memleak/blocks.h"

#include "recorder/clock.h"

#include <bpf/bpf.h>

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <unistd.h>
#include <unordered_set>

namespace dwunw_tool::memleak {
namespace {

constexpr uint64_t kPieceBuckets = 1 << 14; // 4 MiB
constexpr int kBusyTries = 1000;

// The first three tables have room for a million blocks, in 42 MB. Then each doubles the room: few tables, because a
// free looks into each.
uint64_t buckets_of(uint32_t number, uint64_t so_far) {
    constexpr uint64_t kFirst[] = {1 << 15, 1 << 16, 1 << 16};
    constexpr uint64_t kMost = 1 << 24; // 4 GiB: the kernel's limit of an array
    return number < std::size(kFirst) ? kFirst[number] : std::min(so_far, kMost - 1);
}

uint64_t load(const __u64 &word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }

// Reads a slot. False: it is empty. *busy: it is being written.
bool read_slot(const memleak_bucket &bucket, unsigned slot, uint64_t &key, memleak_block &block, bool &busy) {
    busy = false;
    for (int i = 0; i < kBusyTries; ++i) {
        key = load(bucket.keys[slot]);
        if (key == 0)
            return false;
        if (!(key & MEMLEAK_KEY_BUSY)) {
            block.size = load(bucket.blocks[slot].size);
            block.stack = static_cast<int64_t>(load(reinterpret_cast<const __u64 &>(bucket.blocks[slot].stack)));
            block.born = load(bucket.blocks[slot].born);
            // The same key again, with the same birth: nobody has written in between.
            if (load(bucket.keys[slot]) == key && load(bucket.blocks[slot].born) == block.born)
                return true;
        }
        std::atomic_thread_fence(std::memory_order_seq_cst);
    }
    busy = true;
    return false;
}

} // namespace

Block make_block(uint64_t key, const memleak_block &block) {
    return {key >> MEMLEAK_PROCESS_BITS,
            static_cast<uint32_t>(key & MEMLEAK_PROCESSES),
            block.size & MEMLEAK_SIZE_MASK,
            static_cast<uint32_t>(block.size >> MEMLEAK_KIND_SHIFT & MEMLEAK_KIND_MASK),
            static_cast<uint32_t>(block.size >> MEMLEAK_SHIFT_SHIFT & MEMLEAK_SHIFT_MASK),
            block.stack,
            block.born};
}

Blocks::Blocks(Kernel kernel, uint64_t max_bytes) : kernel_(kernel), max_bytes_(max_bytes) {}

Blocks::~Blocks() {
    for (const Table &table : tables_)
        ::close(table.fd);
}

bool Blocks::grow() {
    const uint32_t number = static_cast<uint32_t>(tables_.size());
    const uint64_t buckets = buckets_of(number, bytes() / sizeof(memleak_bucket));
    if (number == MEMLEAK_TABLES || bytes() + buckets * sizeof(memleak_bucket) > max_bytes_) {
        errno = ENOSPC;
        return false;
    }
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
    const int fd = ::bpf_map_create(BPF_MAP_TYPE_ARRAY, "memleak_blocks", sizeof(__u32), sizeof(memleak_bucket),
                                    static_cast<uint32_t>(buckets), &options);
    if (fd < 0)
        return false;
    if (::bpf_map_update_elem(kernel_.tables_fd, &number, &fd, BPF_ANY) != 0) {
        const int error = errno;
        ::close(fd);
        errno = error;
        return false;
    }
    tables_.push_back({fd, buckets});
    kernel_.buckets[number] = static_cast<uint32_t>(buckets);
    __atomic_store_n(kernel_.count, number + 1, __ATOMIC_RELEASE);
    return true;
}

void Blocks::make_room(uint64_t live) {
    while (live > slots() / 10 * 9 && grow()) {
    }
}

uint64_t Blocks::slots() const { return bytes() / sizeof(memleak_bucket) * MEMLEAK_SLOTS; }

uint64_t Blocks::bytes() const {
    uint64_t buckets = 0;
    for (const Table &table : tables_)
        buckets += table.buckets;
    return buckets * sizeof(memleak_bucket);
}

bool Blocks::read_piece(const Table &table, uint64_t first, uint64_t count,
                        const std::function<void(const Block &)> &visit, const std::function<bool(uint32_t)> &is_gone) {
    const size_t length = count * sizeof(memleak_bucket);
    void *memory = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, table.fd,
                          static_cast<off_t>(first * sizeof(memleak_bucket)));
    if (memory == MAP_FAILED)
        return false;
    auto *buckets = static_cast<memleak_bucket *>(memory);
    piece_.clear();
    for (uint64_t i = 0; i < count; ++i)
        for (unsigned slot = 0; slot < MEMLEAK_SLOTS; ++slot) {
            uint64_t key = 0;
            memleak_block block{};
            bool busy = false;
            if (!read_slot(buckets[i], slot, key, block, busy)) {
                unreadable_ += busy;
                continue;
            }
            if (is_gone(key & MEMLEAK_PROCESSES)) {
                __u64 expected = key;
                __atomic_compare_exchange_n(&buckets[i].keys[slot], &expected, 0, false, __ATOMIC_ACQ_REL,
                                            __ATOMIC_RELAXED);
            } else if (block.born < began_) {
                piece_.push_back(make_block(key, block));
                visit(piece_.back());
            }
        }
    ::munmap(memory, length);
    return true;
}

void Blocks::note_freed(const memleak_event &event) { freed_.push_back(event); }

uint64_t Blocks::read(const std::function<void(const Block &)> &visit, const std::function<bool(uint32_t)> &is_gone,
                      const std::function<void()> &drain) {
    freed_.clear();
    began_ = now_ns();
    __atomic_store_n(kernel_.report_began, began_, __ATOMIC_SEQ_CST);
    // Waits for programs that may not have seen it.
    if (!tables_.empty()) {
        const uint32_t first = 0;
        ::bpf_map_update_elem(kernel_.tables_fd, &first, &tables_[0].fd, BPF_ANY);
    }
    for (uint32_t number = 0; number < tables_.size(); ++number)
        for (uint64_t first = 0; first < tables_[number].buckets; first += kPieceBuckets) {
            const uint64_t count = std::min(kPieceBuckets, tables_[number].buckets - first);
            if (!read_piece(tables_[number], first, count, visit, is_gone))
                continue;
            drain();
            std::unordered_set<uint64_t> seen;
            if (!freed_.empty())
                for (const Block &block : piece_)
                    seen.insert(block.address << MEMLEAK_PROCESS_BITS | block.process);
            for (const memleak_event &event : freed_) {
                const uint32_t table = MEMLEAK_PLACE_TABLE(event.old);
                const uint64_t bucket = MEMLEAK_PLACE_BUCKET(event.old);
                const bool is_later = table > number || (table == number && bucket >= first + count);
                const bool is_here = table == number && bucket >= first && bucket < first + count;
                const uint64_t key = event.address << MEMLEAK_PROCESS_BITS | event.process;
                if (is_gone(event.process) || !(is_later || (is_here && !seen.contains(key))))
                    continue;
                memleak_block block{};
                block.size = event.length;
                block.stack = event.stack;
                block.born = event.detail;
                visit(make_block(key, block));
            }
            freed_.clear();
        }
    __atomic_store_n(kernel_.report_began, 0, __ATOMIC_SEQ_CST);
    return began_;
}

} // namespace dwunw_tool::memleak
