// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The source of a process. Process asks a Target about everything outside its map:
//
//     LiveTarget      an address space under /proc/PID                  live_target.h
//     CoreTarget      a process in a core file                          core/target.h
//     MapTarget       a map that was given as text; it has no memory    map_target.h
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

class Target {
  public:
    virtual ~Target() = default;

    // As dwunw_read_memory_fn: the number of bytes read from the start, up to the first unreadable page.
    virtual size_t read(RunAddr address, std::span<uint8_t> buffer) const = 0;

    // The module to which `mapping` of `maps` belongs; its kind is kFile or kVdso. `opened` belongs to `maps`; nullptr:
    // nothing is remembered. DWUNW_ERR_MODULE_CHANGED: a file was found, and it is another one or cannot be identified,
    // or the mapping is gone; DWUNW_ERR_NOT_ELF; DWUNW_ERR_NO_FILE; DWUNW_ERR_PERMISSION; DWUNW_ERR_TOO_MANY_FILES;
    // DWUNW_ERR_MEMORY_UNREADABLE; DWUNW_ERR_LIMIT.
    virtual Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                                     OpenedFiles *opened) const = 0;

    // Whether the target still has `mapping` at mapping.start. Only a live process can change its map.
    virtual bool still_mapped(const Mapping &mapping) const = 0;

    // Whether read() may find bytes. If not, the bytes of a file that is not an ELF image count as its code.
    virtual bool has_memory() const = 0;

    // Whether the bytes at an address were left out when the memory was written down, so that the file mapped there has
    // them.
    virtual bool is_left_out(RunAddr address) const = 0;
};

} // namespace dwunw::process
