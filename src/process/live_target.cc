// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/live_target.h"

#include "process/memory_image.h"
#include "process/module_locator.h"

#include <fcntl.h>

namespace dwunw::process {

Result<std::shared_ptr<const LiveTarget>> LiveTarget::open(const ProcDir &process) {
    auto target = std::make_shared<LiveTarget>();
    target->process_fd_ = process.fd();
    const ProcDir *directory = &process;
    // A main thread that has ended keeps its number until the other threads have ended. It has no address space.
    if (process.state(process.pid()) == ProcDir::State::kZombie) {
        for (const pid_t thread : process.threads()) {
            if (thread == process.pid())
                continue;
            auto opened = ProcDir::open(thread);
            // Still a thread of this process after the opening: so the number is not another process's.
            if (opened && process.state(thread) == ProcDir::State::kAlive) {
                target->thread_ = std::move(*opened);
                directory = &*target->thread_;
                break;
            }
        }
    }
    auto maps = directory->open_file("maps", O_RDONLY);
    if (!maps)
        return maps.error();
    target->maps_ = std::move(*maps);
    target->memory_ = ProcessMemory::open(*directory);
    return std::shared_ptr<const LiveTarget>(std::move(target));
}

Result<const dwunw_module *> LiveTarget::open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                                     OpenedFiles *opened) const {
    return process::open_module(store, maps, mapping, this, nullptr, opened);
}

bool LiveTarget::still_mapped(const Mapping &mapping) const {
    const MappingQuery query = query_mapping(maps_fd(), mapping.start);
    if (query.outcome == MappingQuery::Outcome::kFound)
        return same_placement(query.mapping, mapping);
    if (query.outcome != MappingQuery::Outcome::kUnsupported)
        return false;
    auto maps = Maps::read(maps_fd());
    const Mapping *now = maps ? maps->find(mapping.start) : nullptr;
    return now != nullptr && same_placement(*now, mapping);
}

} // namespace dwunw::process
