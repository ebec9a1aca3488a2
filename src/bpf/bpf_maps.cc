// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/bpf_maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

namespace dwunw::bpf {
namespace {

// −1: the object has no such map.
int map_fd(const bpf_object *object, const char *name) {
    const int fd = bpf_object__find_map_fd_by_name(object, name);
    return fd < 0 ? -1 : fd;
}

// The memory that the kernel charges for a map; 0: it does not say.
uint64_t map_memory(int fd) {
    std::array<char, 64> path{};
    std::snprintf(path.data(), path.size(), "/proc/self/fdinfo/%d", fd);
    std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen(path.data(), "re"), std::fclose);
    std::array<char, 256> line{};
    uint64_t bytes = 0;
    while (file != nullptr && std::fgets(line.data(), line.size(), file.get()) != nullptr)
        if (std::sscanf(line.data(), "memlock: %" SCNu64, &bytes) == 1)
            return bytes;
    return 0;
}

} // namespace

SharedArray::~SharedArray() {
    if (memory_ != nullptr)
        ::munmap(memory_, bytes_);
}

Status SharedArray::open(const bpf_object *object, const char *name, size_t element_size) {
    const bpf_map *found = bpf_object__find_map_by_name(object, name);
    if (found == nullptr || bpf_map__fd(found) < 0 || bpf_map__value_size(found) != element_size)
        return Error{DWUNW_ERR_INVALID_ARGUMENT};
    return map(bpf_map__fd(found), bpf_map__max_entries(found), element_size);
}

Status SharedArray::map(int fd, size_t count, size_t element_size) {
    constexpr size_t kPage = 4096;
    const size_t bytes = (count * element_size + kPage - 1) / kPage * kPage;
    void *memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return Error{DWUNW_ERR_BPF};
    memory_ = memory;
    bytes_ = bytes;
    count_ = count;
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
    object_ = object;
    if (auto status = pool_array_.open(object, "dwunw_pool", sizeof(uint64_t)); !status)
        return status;
    if (auto status = mapping_array_.open(object, "dwunw_mappings", sizeof(dwunw_mapping)); !status)
        return status;
    if (auto status = process_array_.open(object, "dwunw_processes", sizeof(dwunw_process_slot)); !status)
        return status;
    if (auto status = rule_array_.open(object, "dwunw_rules", sizeof(dwunw_cached_rule)); !status)
        return status;
    slots_fd_ = map_fd(object, "dwunw_slots");
    reported_fd_ = map_fd(object, "dwunw_reported");
    events_fd_ = map_fd(object, "dwunw_events");
    counters_fd_ = map_fd(object, "dwunw_counters");
    sent_fd_ = map_fd(object, "dwunw_sent");
    if (sent_fd_ < 0 || slots_fd_ < 0 || reported_fd_ < 0 || events_fd_ < 0 || counters_fd_ < 0)
        return Error{DWUNW_ERR_INVALID_ARGUMENT};
    return grace_.open();
}

bool BpfMaps::set_slot(int32_t pid, uint32_t slot) { return bpf_map_update_elem(slots_fd_, &pid, &slot, BPF_ANY) == 0; }

// What is to be deleted may be absent.
void BpfMaps::forget_process(int32_t pid) {
    bpf_map_delete_elem(slots_fd_, &pid);
    bpf_map_delete_elem(reported_fd_, &pid);
}

void BpfMaps::forget_sent(uint64_t id) { bpf_map_delete_elem(sent_fd_, &id); }

bool BpfMaps::wait_for_programs() { return grace_.wait(); }

bool BpfMaps::read_counters(std::array<uint64_t, DWUNW_BPF_COUNTERS> &out) const {
    const int cpus = libbpf_num_possible_cpus();
    if (cpus <= 0)
        return false;
    std::vector<std::array<uint64_t, DWUNW_BPF_COUNTERS>> values(static_cast<size_t>(cpus));
    const uint32_t key = 0;
    if (bpf_map_lookup_elem(counters_fd_, &key, values.data()) != 0)
        return false;
    out = {};
    for (const auto &value : values)
        for (size_t i = 0; i < out.size(); ++i)
            out[i] += value[i];
    return true;
}

uint64_t BpfMaps::memory_bytes() const {
    uint64_t bytes = 0;
    const bpf_map *map = nullptr;
    bpf_object__for_each_map(map, object_) {
        if (std::strncmp(bpf_map__name(map), "dwunw_", 6) == 0 && bpf_map__fd(map) >= 0)
            bytes += map_memory(bpf_map__fd(map));
    }
    return bytes;
}

} // namespace dwunw::bpf
