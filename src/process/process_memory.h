// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The memory of a live process, and the handles on its address space that reading needs.
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
    // If the caller may not read the process, read() reads nothing.
    static ProcessMemory open(const ProcDir &directory);

    // As dwunw_read_memory_fn: the number of bytes read from the start, up to the first unreadable page. Uses
    // process_vm_readv first, and /proc/PID/mem for pages that it refuses (pages without read permission).
    size_t read(RunAddr address, std::span<uint8_t> buffer) const;

    pid_t pid() const { return pid_; }

  private:
    size_t read_with_readv(RunAddr address, std::span<uint8_t> buffer) const;

    pid_t pid_ = 0;
    UniqueFd pidfd_; // process_vm_readv uses a number: this tells whether it was still our process
    UniqueFd mem_;   // the kernel ties it to the address space
};

// One address space of a process: the handles for its map, its mapped files and its memory. All of them stay tied to
// that address space. After an exec they read as empty, and a new Target must be opened.
class Target {
  public:
    // Also opens a zombie and a kernel thread, whose map is empty. `process` must outlive it. DWUNW_ERR_NO_PROCESS,
    // DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES.
    static Result<std::shared_ptr<const Target>> open(const ProcDir &process);

    int maps_fd() const { return maps_.get(); }
    // The folder of map_files/ and root/.
    int directory_fd() const { return thread_ ? thread_->fd() : process_fd_; }
    const ProcessMemory &memory() const { return memory_; }

  private:
    int process_fd_ = -1;           // the ProcDir's, which outlives this
    std::optional<ProcDir> thread_; // if the main thread has ended and others run: one of those
    UniqueFd maps_;
    ProcessMemory memory_;
};

} // namespace dwunw::process
