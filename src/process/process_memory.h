// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The memory of a live process.
//
// Immutable; thread-safe; reading allocates nothing.
#pragma once

#include "base/address.h"
#include "base/unique_fd.h"
#include "process/proc_dir.h"

#include <span>

namespace dwunw::process {

class ProcessMemory {
  public:
    // Where the caller may not read the process, read() reads nothing.
    static ProcessMemory open(const ProcDir &directory);

    // As dwunw_read_memory_fn: how many bytes could be read from the start, up to the first page that cannot be.
    // process_vm_readv first; /proc/PID/mem for what it refuses (a page without read permission).
    size_t read(RunAddr address, std::span<uint8_t> buffer) const;

  private:
    size_t read_with_readv(RunAddr address, std::span<uint8_t> buffer) const;

    pid_t pid_ = 0;
    UniqueFd pidfd_; // process_vm_readv goes by number: this tells whether it still was our process
    UniqueFd mem_;   // tied by the kernel to the address space
};

} // namespace dwunw::process
