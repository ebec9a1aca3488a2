// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The process in a core file; Target is the same for a live process.
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

#include "process/core_file.h"
#include "process/maps.h"
#include "process/module_store.h"

#include <memory>
#include <string>

namespace dwunw::process {

class CoreTarget {
  public:
    // `exe` and `sysroot`: "" for none.
    CoreTarget(CoreFile core, std::string exe, std::string sysroot);

    const CoreFile &core() const { return core_; }
    Maps maps() const;
    // The module to which `mapping` of `maps` belongs. DWUNW_ERR_MODULE_CHANGED: a file was found, and it is another
    // one or cannot be identified; DWUNW_ERR_NOT_ELF; LocatedFile's errors. No such error if the core has all bytes of
    // the module's unwritable mappings: then the image is made of these.
    Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping) const;

  private:
    bool is_executable(const CoreFile::MappedFile &piece) const;

    CoreFile core_;
    std::string exe_;
    std::string sysroot_;
    std::string exe_path_; // the program's path in the core
};

} // namespace dwunw::process
