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
#include "process/process_memory.h"

#include <mutex>
#include <string>
#include <unordered_map>

namespace dwunw::process {

// Where to find the files of a map without a process. With either field set, a file is accepted by its path alone: the
// map's inodes are another machine's, or those of files that are gone.
struct FilePlaces {
    std::string exe;     // the program's file, the first that the map names; "": at its path
    std::string sysroot; // the root folder of the other paths; "": /
    bool given() const { return !exe.empty() || !sysroot.empty(); }
};

// Results for the files of one map, shared by all mappings of a file: it can have as many as the map has lines, and an
// image from memory is read from all of them. Thread-safe; does not hold its lock while a file is opened.
class OpenedFiles {
  public:
    // The earlier result of `open` for a mapping of that file, or its result now. Every call must use the same map.
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
        // A failure for lack of room is tried again.
        if (module ||
            (module.error().status != DWUNW_ERR_TOO_MANY_FILES && module.error().status != DWUNW_ERR_OUT_OF_MEMORY)) {
            const std::lock_guard lock(mutex_);
            modules_.emplace(same.front(), module);
        }
        return module;
    }

  private:
    std::mutex mutex_;
    std::unordered_map<uint32_t, Result<const dwunw_module *>> modules_; // by the number of the file's first mapping
};

// `target`: nullptr for a map without a process. `places`: may be nullptr; only for a map without a process. A file of
// such a map may be no ELF image; then only its bytes are known of its code. `copied`: of `maps`; may be nullptr.
// Errors: DWUNW_ERR_MODULE_CHANGED (a file was found and is not the mapped one, or the mapping is gone),
// DWUNW_ERR_NOT_ELF, DWUNW_ERR_TOO_MANY_FILES, DWUNW_ERR_PERMISSION, DWUNW_ERR_NO_FILE, DWUNW_ERR_LIMIT.
Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                         const Target *target, const FilePlaces *places = nullptr,
                                         OpenedFiles *copied = nullptr);

} // namespace dwunw::process
