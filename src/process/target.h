// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Where a process comes from. Process asks a Target for everything that lies outside its map:
//
//   LiveTarget      an address space under /proc/PID                  live_target.h
//   CoreTarget      what a core file holds of a process               core/core_target.h
//   MapTarget       a map that was given as text; it has no memory    map_target.h
//
// Immutable; thread-safe; read() allocates nothing.
#pragma once

#include "base/address.h"
#include "base/result.h"
#include "process/maps.h"

#include <mutex>
#include <span>
#include <unordered_map>

struct dwunw_module;

namespace dwunw::process {

class ModuleStore;

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

class Target {
  public:
    virtual ~Target() = default;

    // As dwunw_read_memory_fn: how many bytes could be read from the start, up to the first page that cannot be.
    virtual size_t read(RunAddr address, std::span<uint8_t> buffer) const = 0;

    // The module that `mapping` of `maps` is a part of; its kind is kFile or kVdso. `opened` belongs to `maps`;
    // nullptr: nothing is remembered. DWUNW_ERR_MODULE_CHANGED where a file was found that is not, or cannot be shown
    // to be, the one mapped, or the mapping is gone; DWUNW_ERR_NOT_ELF; DWUNW_ERR_NO_FILE; DWUNW_ERR_PERMISSION;
    // DWUNW_ERR_TOO_MANY_FILES; DWUNW_ERR_MEMORY_UNREADABLE; DWUNW_ERR_LIMIT.
    virtual Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                                     OpenedFiles *opened) const = 0;

    // Whether the target still maps at mapping.start what `mapping` says. Only a live process can change its map.
    virtual bool still_mapped(const Mapping &mapping) const = 0;

    // Whether there is memory that read() may find bytes in. Without it, a file that is no ELF image stands for its
    // code.
    virtual bool has_memory() const = 0;

    // Whether what read() does not find at an address was left out by whoever wrote the memory down, so that the file
    // mapped there has it.
    virtual bool is_left_out(RunAddr address) const = 0;
};

} // namespace dwunw::process
