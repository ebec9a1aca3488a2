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

struct BpfMaps {
    Status open(const bpf_object *object);

    std::span<uint64_t> pool() const { return pool_array.as<uint64_t>(); }
    std::span<dwunw_mapping> mappings() const { return mapping_array.as<dwunw_mapping>(); }
    std::span<dwunw_process_slot> processes() const { return process_array.as<dwunw_process_slot>(); }
    std::span<dwunw_cached_rule> rules() const { return rule_array.as<dwunw_cached_rule>(); }
    // Sums over all CPUs.
    bool read_counters(std::array<uint64_t, DWUNW_BPF_COUNTERS> &out) const;

    SharedArray pool_array;
    SharedArray mapping_array;
    SharedArray process_array;
    SharedArray rule_array;
    GracePeriod grace;
    int slots_fd = -1;
    int reported_fd = -1;
    int events_fd = -1;
    int sent_fd = -1;
    int counters_fd = -1;
};

} // namespace dwunw::bpf
