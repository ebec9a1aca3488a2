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
    // If the caller may not read the process, read() reads nothing.
    static ProcessMemory open(const ProcDir &directory);

    // As dwunw_read_memory_fn: the number of bytes read from the start, up to the first unreadable page. Uses
    // process_vm_readv first, and /proc/PID/mem for pages that it refuses (pages without read permission).
    size_t read(RunAddr address, std::span<uint8_t> buffer) const;

  private:
    size_t read_with_readv(RunAddr address, std::span<uint8_t> buffer) const;

    pid_t pid_ = 0;
    UniqueFd pidfd_; // process_vm_readv uses a number: this tells whether it was still our process
    UniqueFd mem_;   // the kernel ties it to the address space
};

} // namespace dwunw::process
