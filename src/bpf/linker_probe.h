// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The uprobe on _dl_debug_state, which the dynamic linker calls before and after it changes the mappings:
//
//     dlopen()  ->  ld.so: _dl_debug_state(); mmap(…); …; _dl_debug_state();  ->  dwunw_on_linker counts both calls
//
// The probe is at the function's first byte, which is right on every kernel. dwunw/probe_placement.h could find a
// cheaper place, but it needs a disassembler, and the linker calls this function only a few times in a process's life.
// Proved by tests/unit/bpf_linker_probe_test.
#pragma once

#include "base/unique_fd.h"
#include "bpf/uprobe_link.h"
#include "process/module.h"

#include <cstdint>
#include <optional>

struct bpf_program;

namespace dwunw::bpf {

// An attached probe; detaches it at its end. One of the two members is set.
struct AttachedProbe {
    UniqueFd multi;
    Link single;
};

class LinkerProbe {
  public:
    // Chooses the form of the probe and sets up `program`, before its object is loaded. The program must outlive this.
    // nullopt: libbpf refuses.
    static std::optional<LinkerProbe> prepare(bpf_program *program);

    // The function's offset in the linker's file; nullopt: the file does not name it.
    static std::optional<FileOffset> find_entry(const process::Module &linker);

    // Attaches the program to `pid`'s linker. `path` names the linker's file. nullopt: the linker has no such function,
    // or the kernel refused.
    std::optional<AttachedProbe> attach(const process::Module &linker, int32_t pid, const char *path) const;

  private:
    LinkerProbe(const bpf_program *program, bool multi) : program_(program), multi_(multi) {}

    const bpf_program *program_;
    bool multi_; // by a uprobe.multi link; otherwise by a perf event
};

} // namespace dwunw::bpf
