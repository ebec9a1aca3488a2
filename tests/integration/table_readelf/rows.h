// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What both sides of the comparison are brought into: rows of addresses and rules, each rule a number for its text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace table_readelf {

// A rule's text is what `dwunw table` prints behind the addresses: "rsp+16 c-8 s". Equal texts have equal numbers.
class Rules {
  public:
    uint32_t number(std::string_view text) {
        const auto found = numbers_.find(text);
        if (found != numbers_.end())
            return found->second;
        const auto number = static_cast<uint32_t>(texts_.size());
        const auto added = numbers_.emplace(std::string(text), number).first;
        texts_.push_back(&added->first);
        return number;
    }
    const std::string &text(uint32_t number) const { return *texts_[number]; }

  private:
    struct Hash : std::hash<std::string_view> {
        using is_transparent = void;
    };
    std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> numbers_;
    std::vector<const std::string *> texts_;
};

struct Row {
    uint64_t start;
    uint64_t end; // exclusive
    uint32_t rule;

    friend auto operator<=>(const Row &, const Row &) = default;
};

} // namespace table_readelf
