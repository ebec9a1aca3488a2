// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// From a mapping to the module it maps.
//
// Tried in order:
//   /proc/PID/map_files/START-END   the mapped file itself, deleted or in another mount namespace (needs
//                                   CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN)
//   /proc/PID/root/<path>           in the process's mount namespace
//   <path>                          in ours; the only one for a map without a process
//   /proc/PID/mem                   a copy of what is mapped: the vDSO, and files that none of the above opens
//
// A path may lead to another file than the one mapped: it has been replaced, or the map is older than the file. So what
// a path opens must have the mapping's device and inode. Some file systems show other numbers in the map than in stat
// (overlayfs, btrfs): then its first page must be the one in the process's memory, build-id included.
#pragma once

#include "process/maps.h"
#include "process/module_store.h"
#include "process/target.h"

#include <string>

namespace dwunw::process {

class LiveTarget;

// Where the files are that a map without a process names. With either of the two, a file is taken by its path alone:
// the map's inodes are another machine's, or those of files that are gone.
struct FilePlaces {
    std::string exe;     // the program's file, which is the first that the map names; "": where the map says
    std::string sysroot; // where the other paths begin; "": /
    bool given() const { return !exe.empty() || !sysroot.empty(); }
};

// `target` is nullptr for a map without a process; `places` may be nullptr and counts for that alone. A file of such a
// map may also be no ELF image: its bytes are then all that is known of its code. `copied`, of `maps`, may be nullptr.
// Errors: Target::open_module's.
Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                         const LiveTarget *target, const FilePlaces *places = nullptr,
                                         OpenedFiles *copied = nullptr);

} // namespace dwunw::process
