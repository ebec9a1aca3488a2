// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/held_tables.h"

#include "base/clock.h"
#include "process/memory_image.h"

#include <fcntl.h>

#include <algorithm>
#include <span>

namespace dwunw::process {

Result<std::unique_ptr<const HeldTables>> HeldTables::of(Process &process) {
    constexpr int kAttempts = 8;
    std::unique_ptr<HeldTables> tables(new HeldTables);
    if (process.directory() != nullptr) {
        auto maps = process.directory()->open_file("maps", O_RDONLY);
        if (!maps)
            return maps.error();
        tables->maps_ = std::move(*maps);
    }
    const uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE); // before the map is read: what changes meanwhile is verified
    if (const auto status = process.refresh(); !status)
        return status.error();
    Process::CodeMappings code;
    for (int attempt = 0;; ++attempt) {
        if (attempt == kAttempts)
            return Error{DWUNW_ERR_MODULE_CHANGED};
        code = process.code_mappings();
        tables->snapshot_ = process.snapshot();
        if (tables->snapshot_->generation == code.generation)
            break;
    }
    tables->held_ = std::make_unique<Held[]>(code.mappings.size());
    for (Process::CodeMapping &mapping : code.mappings) {
        if (mapping.cfi == nullptr || mapping.binding.moved != 0)
            continue;
        const auto table = mapping.cfi->compile();
        if (!table)
            continue;
        Held &held = tables->held_[tables->count_++];
        held.code = {mapping.start, mapping.end, mapping.binding.module, mapping.binding.bias, *table};
        held.mapping = tables->snapshot_->maps.find(mapping.start);
        held.cfi = std::move(mapping.cfi);
        held.verified_at.store(now, std::memory_order_relaxed);
    }
    return std::unique_ptr<const HeldTables>(std::move(tables));
}

const unwind::TableCode *HeldTables::find(RunAddr address) const {
    const std::span held(held_.get(), count_);
    const auto after = std::ranges::upper_bound(held, address, {}, [](const Held &one) { return one.code.start; });
    if (after == held.begin())
        return nullptr;
    const Held &found = *std::prev(after);
    return address < found.code.end && is_still_mapped(found) ? &found.code : nullptr;
}

bool HeldTables::is_still_mapped(const Held &held) const {
    if (!maps_.valid())
        return true;
    const uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE);
    const uint64_t verified = held.verified_at.load(std::memory_order_relaxed);
    if (now <= verified || now - verified <= Process::kVerifyAfter)
        return true;
    const MappingQuery query = query_mapping(maps_.get(), held.code.start);
    const bool found = query.outcome == MappingQuery::Outcome::kFound;
    if (query.outcome == MappingQuery::Outcome::kUnsupported ? now - verified > Process::kRereadAfter
                                                             : !found || !same_placement(query.mapping, *held.mapping))
        return false;
    if (!held.code.module->file->unchanged())
        return false;
    if (found)
        held.verified_at.store(now, std::memory_order_relaxed);
    return true;
}

} // namespace dwunw::process
