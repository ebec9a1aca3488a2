// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// That BpfMaps::open finds the maps of a loaded object is in tests/integration/bpf_walk_test.py.
#include "bpf/bpf_maps.h"

#include "support/fake_bpf_maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstdlib>
#include <numeric>
#include <string_view>

namespace dwunw::bpf {
namespace {

TEST(SharedArray, ItsMemoryIsTheFilesWholePages) {
    constexpr size_t kCount = 513; // one element more than a page holds
    const UniqueFd file = testing::memory_file(kCount, sizeof(uint64_t));
    void *kernels = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    ASSERT_NE(kernels, MAP_FAILED);
    SharedArray array;
    EXPECT_TRUE(array.as<uint64_t>().empty());
    ASSERT_TRUE(array.map(file.get(), kCount, sizeof(uint64_t)));
    EXPECT_EQ(array.bytes(), 8192u);
    ASSERT_EQ(array.as<uint64_t>().size(), kCount);
    static_cast<uint64_t *>(kernels)[512] = 77;
    EXPECT_EQ(load(array.as<uint64_t>()[512]), 77u);
    put(array.as<uint64_t>()[0], uint64_t{88});
    EXPECT_EQ(static_cast<uint64_t *>(kernels)[0], 88u);
    ::munmap(kernels, 8192);
}

TEST(SharedArray, AFileThatCannotBeMappedIsAnError) {
    SharedArray array;
    EXPECT_EQ(array.map(-1, 1, 8).status(), DWUNW_ERR_BPF);
    EXPECT_TRUE(array.as<uint64_t>().empty());
    EXPECT_EQ(array.bytes(), 0u);
}

// Maps of the kernel's, without programs.
class KernelMaps : public ::testing::Test, protected BpfMaps {
  protected:
    void SetUp() override {
        counters_ = create(BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(uint32_t), DWUNW_BPF_COUNTERS * sizeof(uint64_t), 1);
        if (!counters_.valid()) {
            const char *required = std::getenv("DWUNW_REQUIRE_BPF");
            ASSERT_FALSE(required != nullptr && std::string_view(required) == "1") << "no BPF map can be created";
            GTEST_SKIP() << "skipped: no BPF map can be created here";
        }
        slots_ = create(BPF_MAP_TYPE_HASH, sizeof(int32_t), sizeof(uint32_t), 1);
        reported_ = create(BPF_MAP_TYPE_HASH, sizeof(int32_t), sizeof(uint32_t), 1);
        sent_ = create(BPF_MAP_TYPE_HASH, sizeof(uint64_t), sizeof(uint32_t), 2);
        counters_fd_ = counters_.get();
        slots_fd_ = slots_.get();
        reported_fd_ = reported_.get();
        sent_fd_ = sent_.get();
    }
    static UniqueFd create(bpf_map_type type, size_t key, size_t value, uint32_t entries) {
        return UniqueFd(bpf_map_create(type, "dwunw_test", static_cast<uint32_t>(key), static_cast<uint32_t>(value),
                                       entries, nullptr));
    }
    // UINT32_MAX: there is none.
    template <typename Key> static uint32_t value_of(const UniqueFd &map, Key key) {
        uint32_t value = 0;
        return bpf_map_lookup_elem(map.get(), &key, &value) == 0 ? value : UINT32_MAX;
    }

    UniqueFd counters_;
    UniqueFd slots_;
    UniqueFd reported_;
    UniqueFd sent_;
};

TEST_F(KernelMaps, CountersAreSumsOverAllCpus) {
    const int cpus = libbpf_num_possible_cpus();
    ASSERT_GT(cpus, 0);
    std::vector<std::array<uint64_t, DWUNW_BPF_COUNTERS>> values(static_cast<size_t>(cpus));
    for (size_t cpu = 0; cpu < values.size(); ++cpu)
        std::iota(values[cpu].begin(), values[cpu].end(), cpu * 1000);
    const uint32_t key = 0;
    ASSERT_EQ(bpf_map_update_elem(counters_.get(), &key, values.data(), BPF_ANY), 0);
    std::array<uint64_t, DWUNW_BPF_COUNTERS> sums;
    sums.fill(99);
    ASSERT_TRUE(read_counters(sums));
    const size_t count = values.size();
    for (size_t i = 0; i < sums.size(); ++i)
        EXPECT_EQ(sums[i], count * i + 1000 * (count * (count - 1) / 2)) << i;
}

TEST_F(KernelMaps, AProcessIsKnownUntilItIsForgotten) {
    ASSERT_TRUE(set_slot(4711, 5));
    EXPECT_EQ(value_of(slots_, int32_t{4711}), 5u);
    EXPECT_FALSE(set_slot(4712, 6)) << "there is room for one";
    ASSERT_TRUE(set_slot(4711, 7));
    EXPECT_EQ(value_of(slots_, int32_t{4711}), 7u);
    const int32_t pid = 4711;
    const uint32_t anything = 1;
    ASSERT_EQ(bpf_map_update_elem(reported_.get(), &pid, &anything, BPF_ANY), 0);
    forget_process(pid);
    EXPECT_EQ(value_of(slots_, pid), UINT32_MAX);
    EXPECT_EQ(value_of(reported_, pid), UINT32_MAX) << "it may be reported again";
    EXPECT_TRUE(set_slot(4712, 6));
}

TEST_F(KernelMaps, AForgottenStackIsNotKnownAsSent) {
    const uint32_t anything = 1;
    for (const uint64_t id : {uint64_t{1} << 40, uint64_t{2} << 40})
        ASSERT_EQ(bpf_map_update_elem(sent_.get(), &id, &anything, BPF_ANY), 0);
    forget_sent(uint64_t{1} << 40);
    forget_sent(3); // it may be absent
    EXPECT_EQ(value_of(sent_, uint64_t{1} << 40), UINT32_MAX);
    EXPECT_EQ(value_of(sent_, uint64_t{2} << 40), 1u);
}

TEST_F(KernelMaps, AGracePeriodNeedsItsMaps) {
    EXPECT_FALSE(wait_for_programs()) << "not opened";
    ASSERT_TRUE(grace_.open());
    EXPECT_TRUE(wait_for_programs());
    EXPECT_TRUE(wait_for_programs());
}

} // namespace
} // namespace dwunw::bpf
