// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/other_callers.h"

#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <span>

namespace dwunw::bpf {
namespace {

bool names_map(std::span<const bpf_insn> code, int map) {
    constexpr uint8_t kLoadAddress = BPF_LD | BPF_IMM | BPF_DW;
    return std::ranges::any_of(code, [&](const bpf_insn &instruction) {
        return instruction.code == kLoadAddress && instruction.src_reg == BPF_PSEUDO_MAP_FD && instruction.imm == map;
    });
}

} // namespace

std::string find_other_caller(const bpf_object *object) {
    // Only the walk uses this map; the other programs of dwunw.bpf.h do not. libbpf appends the functions that a
    // program calls to the program's own instructions.
    const bpf_map *rules = bpf_object__find_map_by_name(object, "dwunw_rules");
    const int map = rules != nullptr ? bpf_map__fd(rules) : -1;
    bpf_program *program = nullptr;
    while (map >= 0 && (program = bpf_object__next_program(object, program)) != nullptr) {
        const bpf_prog_type type = bpf_program__type(program);
        if (bpf_program__fd(program) >= 0 && type != BPF_PROG_TYPE_KPROBE &&
            names_map({bpf_program__insns(program), bpf_program__insn_cnt(program)}, map))
            return std::string(bpf_program__name(program)) + ", of type " + libbpf_bpf_prog_type_str(type);
    }
    return {};
}

} // namespace dwunw::bpf
