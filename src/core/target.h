// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process in a core file.
//
// The map comes from three sources:
//   1. NT_FILE says which files were mapped where, but not with which permissions.
//   2. The flags of the PT_LOAD that covers a mapping have its permissions. gcore writes no PT_LOAD for a mapping that
//      it does not dump; then the program headers at the module's beginning, which the core has, give them.
//   3. Memory that only a PT_LOAD covers had no file: the vDSO (AT_SYSINFO_EHDR finds it), JIT code, or data.
//
// A module's file is searched at its path in the core, under `sysroot`, or at `exe`. It is compared with the core's
// copy of the module's first page: build-id and PT_LOADs must be equal, or, without a build-id, the whole page. A file
// that cannot be compared, because the core lacks that page, is not used: it may have been rebuilt. A file that is not
// an ELF image is never used: its code is the bytes that the core has.
//
// Immutable; thread-safe.
#pragma once

#include "core/file.h"
#include "process/target.h"

#include <memory>
#include <string>

namespace dwunw::core {

class CoreTarget final : public process::Target {
  public:
    // `exe` and `sysroot`: "" for none.
    CoreTarget(CoreFile core, std::string exe, std::string sysroot);

    const CoreFile &core() const { return core_; }
    process::Maps maps() const;
    size_t read(RunAddr address, std::span<uint8_t> buffer) const override { return core_.read(address, buffer); }
    // Where the core holds all that the module's unwritable mappings held, the image can be made of that.
    Result<const dwunw_module *> open_module(process::ModuleStore &store, const process::Maps &maps,
                                             const process::Mapping &mapping,
                                             process::OpenedFiles *opened) const override;
    bool still_mapped(const process::Mapping &) const override { return true; }
    bool has_memory() const override { return true; }
    // The core ends before a segment's bytes do, or has none of them.
    bool is_left_out(RunAddr address) const override;

  private:
    Result<const dwunw_module *> open_file(process::ModuleStore &store, const process::Maps &maps,
                                           const process::Mapping &mapping) const;
    bool is_executable(const CoreFile::MappedFile &piece) const;

    CoreFile core_;
    std::string exe_;
    std::string sysroot_;
    std::string exe_path_; // the program's path in the core
};

} // namespace dwunw::core
