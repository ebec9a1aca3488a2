// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A map without a process, such as a stored text of /proc/PID/maps. Its files are opened by their paths, and there is
// no memory. Proved by tests/unit/process_module_locator_test and process_process_test.
#pragma once

#include "process/module_locator.h"
#include "process/target.h"

#include <utility>

namespace dwunw::process {

class MapTarget final : public Target {
  public:
    explicit MapTarget(FilePlaces places = {}) : places_(std::move(places)) {}

    size_t read(RunAddr, std::span<uint8_t>) const override { return 0; }
    Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                             OpenedFiles *) const override {
        return process::open_module(store, maps, mapping, nullptr, &places_);
    }
    bool still_mapped(const Mapping &) const override { return true; }
    bool has_memory() const override { return false; }
    bool is_left_out(RunAddr) const override { return false; }

  private:
    FilePlaces places_;
};

} // namespace dwunw::process
