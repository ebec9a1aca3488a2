// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/moment.h"

#include <algorithm>

namespace dwunw::bpf {

using process::Binding;
using unwind::CodeKind;

namespace {

const Binding kUnknown{CodeKind::kUnusableModule, DWUNW_ERR_MODULE_CHANGED, nullptr, {}};

} // namespace

bool FileChecks::unchanged(const process::Module &file, uint64_t now) {
    const auto known = checked_.find(&file);
    if (known != checked_.end() && now - known->second <= kAskAgainAfter)
        return true;
    if (!file.unchanged()) {
        checked_.erase(&file);
        return false;
    }
    checked_[&file] = now;
    return true;
}

const Binding &Moment::bind(Mapped &mapped) {
    if (!mapped.binding)
        mapped.binding = process_.bind_past(mapped.mapping, mapped.time);
    return *mapped.binding;
}

Moment::Answer Moment::look(RunAddr address) {
    Answer answer;
    const MapHistory::Found found = history_.find(address, since_, time_);
    answer.start = found.start;
    answer.end = found.end;
    if (found.mapped != nullptr) {
        answer.binding = bind(*found.mapped);
        answer.mapping_start = found.mapped->mapping.start;
        answer.offset = found.mapped->mapping.offset;
    } else if (reading_ == nullptr) {
        answer.binding = kUnknown;
        return answer;
    } else if (const process::Mapping *mapping = reading_->snapshot->maps.find(address);
               mapping != nullptr && mapping->executable) {
        answer.binding = process_.binding(*reading_->snapshot, reading_->snapshot->maps.index_of(*mapping));
        answer.start = std::max(answer.start, mapping->start);
        answer.end = std::min(answer.end, mapping->end);
        answer.mapping_start = mapping->start;
        answer.offset = mapping->offset;
    } else {
        return {};
    }
    const bool is_known =
        answer.binding.kind == CodeKind::kUprobeTrampoline ||
        (answer.binding.kind == CodeKind::kModule && checks_.unchanged(*answer.binding.module->file, now_));
    if (!is_known)
        answer.binding = kUnknown;
    return answer;
}

unwind::CodeLocation Moment::find(RunAddr address) {
    const Answer answer = look(address);
    unwind::CodeLocation location;
    location.kind = answer.binding.kind;
    location.status = answer.binding.status;
    location.module = answer.binding.module;
    location.bias = answer.binding.bias;
    location.start = answer.start;
    location.end = answer.end;
    if (location.kind == CodeKind::kModule) {
        location.entry = location.module->file->entry();
        auto cfi = process_.store().cfi(*location.module->file);
        if (cfi)
            location.cfi = std::move(*cfi);
        else
            location.status = cfi.error().status;
    }
    return location;
}

bool Moment::read_code(RunAddr address, std::span<uint8_t> buffer) {
    const Answer answer = look(address);
    if (answer.binding.kind != CodeKind::kModule || buffer.size() > answer.end - address)
        return false;
    return answer.binding.module->file->source().read_exactly(answer.offset + (address - answer.mapping_start), buffer);
}

} // namespace dwunw::bpf
