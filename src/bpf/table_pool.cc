// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/table_pool.h"

#include "bpf/table_encoding.h"

#include <dwunw/bpf/dwunw_types.h>

#include <algorithm>

namespace dwunw::bpf {

std::optional<uint32_t> TablePool::acquire(const process::Module &file, const unwind::Table &compiled) {
    if (const auto found = tables_.find(&file); found != tables_.end()) {
        if (found->second.users++ == 0)
            unused_.erase(found->second.unused);
        return found->second.first;
    }
    const std::vector<uint64_t> cells = table_cells(compiled);
    const auto first = room(static_cast<uint32_t>(cells.size()));
    if (!first) {
        ++without_room_;
        return std::nullopt;
    }
    std::ranges::copy(cells, cells_.begin() + *first);
    Table table;
    table.first = *first;
    table.count = static_cast<uint32_t>(cells.size());
    table.users = 1;
    for (const unwind::Rule &rule : compiled.rules())
        table.rules_left_to_user += (rule_word(rule, *compiled.arch()) & 7) == DWUNW_RULE_CFA_ELSEWHERE;
    tables_.emplace(&file, table);
    return first;
}

void TablePool::release(const process::Module &file) {
    const auto found = tables_.find(&file);
    if (found == tables_.end() || found->second.users == 0 || --found->second.users > 0)
        return;
    found->second.unused = unused_.insert(unused_.end(), &file);
}

std::optional<uint32_t> TablePool::room(uint32_t count) {
    if (count == 0)
        return std::nullopt;
    while (true) {
        if (const auto first = blocks_.take(count))
            return first;
        if (unused_.empty())
            return std::nullopt;
        const auto oldest = tables_.find(unused_.front());
        unused_.pop_front();
        blocks_.give_back(oldest->second.first, oldest->second.count);
        tables_.erase(oldest);
    }
}

uint64_t TablePool::rules_left_to_user() const {
    uint64_t sum = 0;
    for (const auto &[file, table] : tables_)
        sum += table.rules_left_to_user;
    return sum;
}

} // namespace dwunw::bpf
