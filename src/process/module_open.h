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
#include "process/process_memory.h"

#include <mutex>
#include <string>
#include <unordered_map>

namespace dwunw::process {

// Where the files are that a map without a process names. With either of the two, a file is taken by its path alone:
// the map's inodes are another machine's, or those of files that are gone.
struct FilePlaces {
    std::string exe;     // the program's file, which is the first that the map names; "": where the map says
    std::string sysroot; // where the other paths begin; "": /
    bool given() const { return !exe.empty() || !sysroot.empty(); }
};

// What was found for a file of one map, for the file's other mappings: it can have as many as the map has lines, and an
// image out of memory is read from all of them. Thread-safe; its lock is not held while a file is opened.
class OpenedFiles {
  public:
    // What `open` returned for a mapping of that file before, or returns now. Always the same map.
    template <typename Open> Result<const dwunw_module *> get(const Maps &maps, const Mapping &mapping, Open open) {
        const auto same = maps.of_same_file(mapping);
        if (same.empty())
            return open();
        {
            const std::lock_guard lock(mutex_);
            if (const auto known = modules_.find(same.front()); known != modules_.end())
                return known->second;
        }
        Result<const dwunw_module *> module = open();
        // What there was no room for is tried again.
        if (module ||
            (module.error().status != DWUNW_ERR_TOO_MANY_FILES && module.error().status != DWUNW_ERR_OUT_OF_MEMORY)) {
            const std::lock_guard lock(mutex_);
            modules_.emplace(same.front(), module);
        }
        return module;
    }

  private:
    std::mutex mutex_;
    std::unordered_map<uint32_t, Result<const dwunw_module *>> modules_; // by the file's first mapping
};

// `target` is nullptr for a map without a process; `places` may be nullptr and counts for that alone. A file of such a
// map may also be no ELF image: its bytes are then all that is known of its code. `copied`, of `maps`, may be nullptr.
// Errors: DWUNW_ERR_MODULE_CHANGED
// where a file was found and is not the one mapped, or the mapping is gone; DWUNW_ERR_NOT_ELF;
// DWUNW_ERR_TOO_MANY_FILES, DWUNW_ERR_PERMISSION, DWUNW_ERR_NO_FILE; DWUNW_ERR_LIMIT.
Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                         const Target *target, const FilePlaces *places = nullptr,
                                         OpenedFiles *copied = nullptr);

} // namespace dwunw::process
