// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One address space of a live process: the handles for its map, its mapped files and its memory. All of them stay tied
// to that address space. After an exec they read as empty, and a new LiveTarget must be opened. Proved by
// tests/unit/process_live_target_test.
#pragma once

#include "base/unique_fd.h"
#include "process/proc_dir.h"
#include "process/process_memory.h"
#include "process/target.h"

#include <memory>
#include <optional>

namespace dwunw::process {

class LiveTarget final : public Target {
  public:
    // Also opens a zombie and a kernel thread, whose map is empty. `process` must outlive it. DWUNW_ERR_NO_PROCESS,
    // DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES.
    static Result<std::shared_ptr<const LiveTarget>> open(const ProcDir &process);

    int maps_fd() const { return maps_.get(); }
    // The folder of map_files/ and root/.
    int directory_fd() const { return thread_ ? thread_->fd() : process_fd_; }

    size_t read(RunAddr address, std::span<uint8_t> buffer) const override { return memory_.read(address, buffer); }
    Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                             OpenedFiles *opened) const override;
    bool still_mapped(const Mapping &mapping) const override;
    bool has_memory() const override { return true; }
    bool is_left_out(RunAddr) const override { return false; }

  private:
    int process_fd_ = -1;           // the ProcDir's, which outlives this
    std::optional<ProcDir> thread_; // if the main thread has ended and others run: one of those
    UniqueFd maps_;
    ProcessMemory memory_;
};

} // namespace dwunw::process
