// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// From a mapping to its module.
//
// Tried in this order:
//
//     /proc/PID/map_files/START-END   the mapped file itself, also if it is deleted or in another mount namespace
//     (needs
//                                     CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN)
//     /proc/PID/root/<path>           in the process's mount namespace
//     <path>                          in our own; the only way for a map without a process
//     /proc/PID/mem                   a copy of the mapped memory: the vDSO, and files that cannot be opened otherwise
//
// A path may lead to another file than the mapped one: the file was replaced, or the map is older than the file. So the
// opened file must have the mapping's device and inode. Some file systems show other numbers in the map than in stat
// (overlayfs, btrfs). Then the file's first page, with the build-id, must be equal to the process's memory.
#pragma once

#include "process/maps.h"
#include "process/module_store.h"
#include "process/target.h"

#include <string>

namespace dwunw::process {

class LiveTarget;

// Where to find the files of a map without a process. With either field set, a file is accepted by its path alone: the
// map's inodes are another machine's, or those of files that are gone.
struct FilePlaces {
    std::string exe;     // the program's file, the first that the map names; "": at its path
    std::string sysroot; // the root folder of the other paths; "": /
    bool given() const { return !exe.empty() || !sysroot.empty(); }
};

// `target`: nullptr for a map without a process. `places`: may be nullptr; only for a map without a process. A file of
// such a map may be no ELF image; then only its bytes are known of its code. `copied`: of `maps`; may be nullptr.
// Errors: Target::open_module's.
Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                         const LiveTarget *target, const FilePlaces *places = nullptr,
                                         OpenedFiles *copied = nullptr);

} // namespace dwunw::process
