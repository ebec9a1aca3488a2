// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One address space of a live process: the handles that its map, its mapped files and its memory are read through. All
// of them stay tied to that address space; after an exec it reads as empty, and a new one has to be opened.
// Proved by tests/unit/process_live_target_test.
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
    // A zombie and a kernel thread open, too: their map is empty. `process` outlives it. DWUNW_ERR_NO_PROCESS,
    // DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES.
    static Result<std::shared_ptr<const LiveTarget>> open(const ProcDir &process);

    int maps_fd() const { return maps_.get(); }
    // Where map_files/ and root/ are.
    int directory_fd() const { return thread_ ? thread_->fd() : process_fd_; }

    size_t read(RunAddr address, std::span<uint8_t> buffer) const override { return memory_.read(address, buffer); }
    Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                             OpenedFiles *opened) const override;
    bool still_mapped(const Mapping &mapping) const override;
    bool has_memory() const override { return true; }
    bool is_left_out(RunAddr) const override { return false; }

  private:
    int process_fd_ = -1;           // of the ProcDir, which outlives this
    std::optional<ProcDir> thread_; // where the main thread has ended and others run: one of those
    UniqueFd maps_;
    ProcessMemory memory_;
};

} // namespace dwunw::process
