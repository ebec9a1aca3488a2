// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The loader's view of the maps of dwunw.bpf.h. Array maps are mapped into memory.
//
// Not thread-safe.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

#include <dwunw/bpf/dwunw_types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

struct bpf_object;

namespace dwunw::bpf {

// Single words of memory that BPF programs read and write at the same time.
template <typename T> T load(const T &shared) { return __atomic_load_n(&shared, __ATOMIC_ACQUIRE); }
template <typename T> void put(T &shared, T value) { __atomic_store_n(&shared, value, __ATOMIC_RELEASE); }

// The memory of an array map, shared with the programs.
class SharedArray {
  public:
    SharedArray() = default;
    ~SharedArray();
    SharedArray(const SharedArray &) = delete;
    SharedArray &operator=(const SharedArray &) = delete;

    Status open(const bpf_object *object, const char *name, size_t element_size);
    // Maps the memory of a file of `count` elements: an array map's, or a test's.
    Status map(int fd, size_t count, size_t element_size);
    template <typename T> std::span<T> as() const { return {static_cast<T *>(memory_), count_}; }
    size_t bytes() const { return bytes_; }

  private:
    void *memory_ = nullptr;
    size_t bytes_ = 0;
    size_t count_ = 0;
};

// Waits until every program that runs now has ended. The kernel does this before it returns from an update of a map of
// maps, for exactly this purpose.
class GracePeriod {
  public:
    Status open();
    bool wait();

  private:
    UniqueFd inner_;
    UniqueFd outer_;
};

// What the loader asks of the kernel goes through the virtual functions: a test answers in the kernel's place
// (tests/support/fake_bpf_maps.h).
class BpfMaps {
  public:
    BpfMaps() = default;
    virtual ~BpfMaps() = default;
    BpfMaps(const BpfMaps &) = delete;
    BpfMaps &operator=(const BpfMaps &) = delete;

    Status open(const bpf_object *object);
    int events_fd() const { return events_fd_; }

    std::span<uint64_t> pool() const { return pool_array_.as<uint64_t>(); }
    std::span<dwunw_mapping> mappings() const { return mapping_array_.as<dwunw_mapping>(); }
    std::span<dwunw_process_slot> processes() const { return process_array_.as<dwunw_process_slot>(); }
    std::span<dwunw_cached_rule> rules() const { return rule_array_.as<dwunw_cached_rule>(); }

    // The kernel finds the process `pid` in this slot from now on. False: the kernel has no room for it.
    virtual bool set_slot(int32_t pid, uint32_t slot);
    // The kernel knows the process no longer.
    virtual void forget_process(int32_t pid);
    // The kernel sends the stack `id` again when it comes again.
    virtual void forget_sent(uint64_t id);
    // Waits until every program that runs now has ended.
    virtual bool wait_for_programs();
    // Sums over all CPUs.
    virtual bool read_counters(std::array<uint64_t, DWUNW_BPF_COUNTERS> &out) const;
    // What the kernel charges for all maps of dwunw.bpf.h.
    virtual uint64_t memory_bytes() const;

  protected:
    SharedArray pool_array_;
    SharedArray mapping_array_;
    SharedArray process_array_;
    SharedArray rule_array_;
    GracePeriod grace_;
    const bpf_object *object_ = nullptr;
    int slots_fd_ = -1;
    int reported_fd_ = -1;
    int events_fd_ = -1;
    int sent_fd_ = -1;
    int counters_fd_ = -1;
};

} // namespace dwunw::bpf
