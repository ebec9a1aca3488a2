// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The maps of dwunw.bpf.h without a kernel: arrays in memory, and answers that the test chooses.
#pragma once

#include "base/unique_fd.h"
#include "bpf/bpf_maps.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <vector>

namespace dwunw::testing {

// Memory of `count` elements of `element_size` bytes, as a file that an array can map.
inline UniqueFd memory_file(size_t count, size_t element_size) {
    UniqueFd fd(::memfd_create("array", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(count * element_size)), 0);
    return fd;
}

class FakeBpfMaps final : public bpf::BpfMaps {
  public:
    struct Sizes {
        size_t cells = size_t{1} << 20;
        size_t mappings = 4096;
        size_t processes = 8;
    };
    static constexpr size_t kRules = 64;

    explicit FakeBpfMaps(const Sizes &sizes) {
        const auto fill = [](bpf::SharedArray &array, size_t count, size_t element_size) {
            EXPECT_TRUE(array.map(memory_file(count, element_size).get(), count, element_size));
        };
        fill(pool_array_, sizes.cells, sizeof(uint64_t));
        fill(mapping_array_, sizes.mappings, sizeof(dwunw_mapping));
        fill(process_array_, sizes.processes, sizeof(dwunw_process_slot));
        fill(rule_array_, kRules, sizeof(dwunw_cached_rule));
    }

    bool set_slot(int32_t pid, uint32_t slot) override {
        if (!has_room)
            return false;
        slots[pid] = slot;
        return true;
    }
    void forget_process(int32_t pid) override { slots.erase(pid); }
    void forget_sent(uint64_t id) override { forgotten.push_back(id); }
    bool wait_for_programs() override { return ++waits, can_wait; }
    bool read_counters(std::array<uint64_t, DWUNW_BPF_COUNTERS> &out) const override {
        out = counters;
        return true;
    }
    uint64_t memory_bytes() const override { return 12345; }

    // As a program of the kernel finds it.
    dwunw_process_slot &slot_of(int32_t pid) { return processes()[slots.at(pid)]; }
    std::span<dwunw_mapping> mappings_of(int32_t pid) {
        return mappings().subspan(slot_of(pid).first, slot_of(pid).count);
    }
    std::span<dwunw_mapping> lasting_of(int32_t pid) {
        return mappings().subspan(slot_of(pid).lasting_first, slot_of(pid).lasting_count);
    }

    std::map<int32_t, uint32_t> slots; // what the kernel knows
    std::vector<uint64_t> forgotten;
    std::array<uint64_t, DWUNW_BPF_COUNTERS> counters{};
    bool has_room = true;
    bool can_wait = true;
    int waits = 0;
};

} // namespace dwunw::testing
