// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/kernel_features.h"

#include "base/unique_fd.h"

#include <dwunw/bpf_stacks.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace dwunw::bpf {
namespace {

// Loads a program that reads the kernel's memory, as the walk does. This needs the caller's right to load programs, and
// a kernel that is not locked down: with lockdown=confidentiality the verifier refuses that helper.
struct ReadingProgram {
    dwunw_status status;
    bool jit;
};

ReadingProgram load_reading_program() {
    constexpr auto kInstruction = [](uint8_t code, uint8_t destination, uint8_t source, int16_t offset, int32_t value) {
        bpf_insn instruction{};
        instruction.code = code;
        instruction.dst_reg = destination & 0xf;
        instruction.src_reg = source & 0xf;
        instruction.off = offset;
        instruction.imm = value;
        return instruction;
    };
    const std::array program{
        kInstruction(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_10, 0, 0),
        kInstruction(BPF_ALU64 | BPF_ADD, BPF_REG_1, 0, 0, -8),
        kInstruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_2, 0, 0, 8),
        kInstruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, 0),
        kInstruction(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel),
        kInstruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
        kInstruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    const UniqueFd fd(
        bpf_prog_load(BPF_PROG_TYPE_KPROBE, "dwunw_probe", "GPL", program.data(), program.size(), nullptr));
    if (!fd.valid()) {
        const bool may_not = errno == EPERM || errno == EACCES;
        return {.status = may_not           ? DWUNW_ERR_PERMISSION
                          : errno == EINVAL ? DWUNW_ERR_LOCKED_DOWN
                                            : DWUNW_ERR_BPF,
                .jit = false};
    }
    bpf_prog_info info{};
    uint32_t size = sizeof(info);
    return {.status = DWUNW_OK, .jit = bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0 || info.jited_prog_len != 0};
}

// Checks the usual file first: loading it takes some milliseconds, and libbpf must load it again for the object.
bool has_btf() {
    if (::access("/sys/kernel/btf/vmlinux", R_OK) == 0)
        return true;
    btf *found = btf__load_vmlinux_btf();
    const bool has = found != nullptr;
    btf__free(found);
    return has;
}

} // namespace

KernelFeatures KernelFeatures::probe(uint32_t flags) {
    const auto helper = [](bpf_func_id id) { return libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, id, nullptr) == 1; };
    KernelFeatures features;
    const ReadingProgram reading = load_reading_program();
    features.usable = reading.status;
    features.jit = reading.jit;
    // Checks the ring buffer first: a kernel without it is too old for the helper of that program.
    if (features.usable != DWUNW_ERR_PERMISSION && libbpf_probe_bpf_map_type(BPF_MAP_TYPE_RINGBUF, nullptr) != 1)
        features.usable = DWUNW_ERR_BPF;
    if (features.usable == DWUNW_OK && !has_btf())
        features.usable = DWUNW_ERR_NO_BTF;
    features.loop_off = (flags & DWUNW_BPF_NO_LOOP) != 0;
    features.loop = !features.loop_off && features.jit && helper(BPF_FUNC_loop);
    features.task_storage_off = (flags & DWUNW_BPF_NO_TASK_STORAGE) != 0;
    features.task_storage = !features.task_storage_off &&
                            libbpf_probe_bpf_map_type(BPF_MAP_TYPE_TASK_STORAGE, nullptr) == 1 &&
                            helper(BPF_FUNC_task_storage_get) && helper(BPF_FUNC_get_current_task_btf);
    features.find_vma = features.jit && helper(BPF_FUNC_find_vma) && helper(BPF_FUNC_get_current_task_btf);
    return features;
}

} // namespace dwunw::bpf
