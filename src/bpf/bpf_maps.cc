// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/bpf_maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>

#include <vector>

namespace dwunw::bpf {
namespace {

// −1: the object has no such map.
int map_fd(const bpf_object *object, const char *name) {
    const int fd = bpf_object__find_map_fd_by_name(object, name);
    return fd < 0 ? -1 : fd;
}

} // namespace

SharedArray::~SharedArray() {
    if (memory_ != nullptr)
        ::munmap(memory_, bytes_);
}

Status SharedArray::open(const bpf_object *object, const char *name, size_t element_size) {
    constexpr size_t kPage = 4096;
    const bpf_map *map = bpf_object__find_map_by_name(object, name);
    if (map == nullptr || bpf_map__fd(map) < 0 || bpf_map__value_size(map) != element_size)
        return Error{DWUNW_ERR_INVALID_ARGUMENT};
    count_ = bpf_map__max_entries(map);
    bytes_ = (count_ * element_size + kPage - 1) / kPage * kPage;
    void *memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
    if (memory == MAP_FAILED)
        return Error{DWUNW_ERR_BPF};
    memory_ = memory;
    return {};
}

Status GracePeriod::open() {
    inner_ =
        UniqueFd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "dwunw_inner", sizeof(uint32_t), sizeof(uint32_t), 1, nullptr));
    if (!inner_.valid())
        return Error{DWUNW_ERR_BPF};
    LIBBPF_OPTS(bpf_map_create_opts, options, .inner_map_fd = static_cast<uint32_t>(inner_.get()));
    outer_ = UniqueFd(
        bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "dwunw_outer", sizeof(uint32_t), sizeof(uint32_t), 1, &options));
    if (!outer_.valid())
        return Error{DWUNW_ERR_BPF};
    return {};
}

bool GracePeriod::wait() {
    const uint32_t key = 0;
    const int inner = inner_.get();
    return bpf_map_update_elem(outer_.get(), &key, &inner, BPF_ANY) == 0;
}

Status BpfMaps::open(const bpf_object *object) {
    if (auto status = pool_array.open(object, "dwunw_pool", sizeof(uint64_t)); !status)
        return status;
    if (auto status = mapping_array.open(object, "dwunw_mappings", sizeof(dwunw_mapping)); !status)
        return status;
    if (auto status = process_array.open(object, "dwunw_processes", sizeof(dwunw_process_slot)); !status)
        return status;
    if (auto status = rule_array.open(object, "dwunw_rules", sizeof(dwunw_cached_rule)); !status)
        return status;
    slots_fd = map_fd(object, "dwunw_slots");
    reported_fd = map_fd(object, "dwunw_reported");
    events_fd = map_fd(object, "dwunw_events");
    counters_fd = map_fd(object, "dwunw_counters");
    sent_fd = map_fd(object, "dwunw_sent");
    if (sent_fd < 0 || slots_fd < 0 || reported_fd < 0 || events_fd < 0 || counters_fd < 0)
        return Error{DWUNW_ERR_INVALID_ARGUMENT};
    return grace.open();
}

bool BpfMaps::read_counters(std::array<uint64_t, DWUNW_BPF_COUNTERS> &out) const {
    const int cpus = libbpf_num_possible_cpus();
    if (cpus <= 0)
        return false;
    std::vector<std::array<uint64_t, DWUNW_BPF_COUNTERS>> values(static_cast<size_t>(cpus));
    const uint32_t key = 0;
    if (bpf_map_lookup_elem(counters_fd, &key, values.data()) != 0)
        return false;
    out = {};
    for (const auto &value : values)
        for (size_t i = 0; i < out.size(); ++i)
            out[i] += value[i];
    return true;
}

} // namespace dwunw::bpf
