// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which of a process's mappings stay until it executes another program.
//
// The dynamic linker (glibc's and musl's) unloads what dlopen brought, never the program itself, nor the linker, nor
// what it loaded for them before the program began: the libraries that the program names as needed, and those that
// these name. Which mapped file goes by such a name is asked of its own DT_SONAME and of its path; where two files do,
// or one file is mapped at two places, neither is said to stay; where a file's
// names cannot be read, no library is.
//
// Proved by tests/unit/bpf_lasting_test.
#pragma once

#include "elf/dynamic.h"
#include "process/process.h"

#include <functional>
#include <span>
#include <vector>

namespace dwunw::bpf {

struct Lasting {
    std::vector<size_t> mappings; // their numbers, ascending
    bool whole = true;            // false: a name is not found, or not certain
};

// `entry`: an address in the program. `linker`: where the dynamic linker was loaded, 0: nowhere. `dynamic`: of a
// module.
Lasting find_lasting(std::span<const process::Process::CodeMapping> mappings, RunAddr entry, RunAddr linker,
                     const std::function<const elf::Dynamic &(const dwunw_module &)> &dynamic);

} // namespace dwunw::bpf
