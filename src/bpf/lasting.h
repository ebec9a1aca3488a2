// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds the mappings of a process that stay until it executes another program:
//
//     program         DT_NEEDED libA, libc        stays
//     ld-linux        the dynamic linker          stays
//     libA            DT_NEEDED libB              stays: loaded at the start
//     libB, libc                                  stay: loaded at the start
//     plugin.so       by dlopen                   may be unloaded
//
// The dynamic linker (glibc's and musl's) unloads only what dlopen has loaded. It never unloads the program, itself, or
// the libraries that it loaded before the program began: those that the program names as needed, and those that these
// name. A file's DT_SONAME and path say whether it has such a name. If two files have the name, or one file is mapped
// at two places, neither counts as lasting. If the names of a file cannot be read, no library counts.
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
    bool whole = true;            // false: a name was not found, or is not certain
};

// `entry`: an address in the program. `linker`: the dynamic linker's load address; 0: none. `dynamic`: gives a module's
// dynamic section.
Lasting find_lasting(std::span<const process::Process::CodeMapping> mappings, RunAddr entry, RunAddr linker,
                     const std::function<const elf::Dynamic &(const dwunw_module &)> &dynamic);

} // namespace dwunw::bpf
