// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The notes of a 64-bit core file in Linux's layout (struct elf_prstatus and elf_prpsinfo of <sys/procfs.h>; the
// kernel's fill_files_note for NT_FILE). Defined here, so that the layout is the same on every machine that reads a
// core.
#pragma once

#include "arch/kernel_registers.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace dwunw::core {

inline constexpr char kCoreNoteName[] = "CORE";

struct CorePrStatus {
    int32_t signal_number;
    int32_t signal_code;
    int32_t signal_errno;
    int16_t current_signal;
    int16_t padding;
    uint64_t signals_pending;
    uint64_t signals_held;
    int32_t tid; // pr_pid
    int32_t parent;
    int32_t group;
    int32_t session;
    std::array<uint64_t, 8> times; // user, system, and the children's: seconds, microseconds
    arch::CoreRegisters registers;
    int32_t has_fp_registers;
    int32_t padding_at_end;
};
static_assert(offsetof(CorePrStatus, registers) == 112);
static_assert(sizeof(CorePrStatus) == 120 + sizeof(arch::CoreRegisters));

struct CorePrPsInfo {
    char state;
    char state_letter;
    char zombie;
    char nice;
    int32_t padding;
    uint64_t flags;
    uint32_t uid;
    uint32_t gid;
    int32_t pid;
    int32_t parent;
    int32_t group;
    int32_t session;
    std::array<char, 16> name;
    std::array<char, 80> arguments;
};
static_assert(sizeof(CorePrPsInfo) == 136 && offsetof(CorePrPsInfo, name) == 40);

// NT_FILE: count and page size, then `count` of these entries, then `count` NUL-terminated paths.
struct CoreFileEntry {
    uint64_t start;
    uint64_t end;
    uint64_t offset; // in pages
};

} // namespace dwunw::core
