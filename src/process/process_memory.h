// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The memory of a live process, and the handles on its address space that reading it takes.
//
// Immutable; thread-safe; reading allocates nothing.
#pragma once

#include "base/address.h"
#include "base/unique_fd.h"
#include "process/proc_dir.h"

#include <memory>
#include <optional>
#include <span>

namespace dwunw::process {

class ProcessMemory {
  public:
    // Where the caller may not read the process, read() reads nothing.
    static ProcessMemory open(const ProcDir &directory);

    // As dwunw_read_memory_fn: how many bytes could be read from the start, up to the first page that cannot be.
    // process_vm_readv first; /proc/PID/mem for what it refuses (a page without read permission).
    size_t read(RunAddr address, std::span<uint8_t> buffer) const;

    pid_t pid() const { return pid_; }

  private:
    size_t read_with_readv(RunAddr address, std::span<uint8_t> buffer) const;

    pid_t pid_ = 0;
    UniqueFd pidfd_; // process_vm_readv goes by number: this tells whether it still was our process
    UniqueFd mem_;   // tied by the kernel to the address space
};

// One address space of a process: what its map, its mapped files and its memory are read through. All of it stays tied
// to that address space; after an exec it reads as empty, and a new one has to be opened.
class Target {
  public:
    // A zombie and a kernel thread open, too: their map is empty. `process` outlives it. DWUNW_ERR_NO_PROCESS,
    // DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES.
    static Result<std::shared_ptr<const Target>> open(const ProcDir &process);

    int maps_fd() const { return maps_.get(); }
    // Where map_files/ and root/ are.
    int directory_fd() const { return thread_ ? thread_->fd() : process_fd_; }
    const ProcessMemory &memory() const { return memory_; }

  private:
    int process_fd_ = -1;           // of the ProcDir, which outlives this
    std::optional<ProcDir> thread_; // where the main thread has ended and others run: one of those
    UniqueFd maps_;
    ProcessMemory memory_;
};

} // namespace dwunw::process
