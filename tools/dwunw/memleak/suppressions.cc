// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/suppressions.h"

#include <cerrno>
#include <cstring>
#include <fstream>

namespace dwunw_tool::memleak {
namespace {

// Whether a pattern of pieces between stars matches the whole text. Backtracks to the last star only, which is enough:
// an earlier star could not reach further. Time: pattern × text.
bool matches_whole(std::string_view pattern, std::string_view text) {
    size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
    while (t < text.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            resume = t;
        } else if (p < pattern.size() && pattern[p] == text[t]) {
            ++p;
            ++t;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            t = ++resume;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*')
        ++p;
    return p == pattern.size();
}

} // namespace

bool Suppressions::matches(std::string_view pattern, std::string_view text) {
    std::string whole;
    if (pattern.starts_with('^'))
        pattern.remove_prefix(1);
    else
        whole = "*";
    const bool to_the_end = pattern.ends_with('$');
    if (to_the_end)
        pattern.remove_suffix(1);
    whole += pattern;
    if (!to_the_end)
        whole += '*';
    return matches_whole(whole, text);
}

std::string Suppressions::read(const std::string &path) {
    std::ifstream file(path);
    if (!file)
        return path + ": " + std::strerror(errno);
    size_t number = 0;
    for (std::string line; std::getline(file, line);) {
        ++number;
        const size_t begin = line.find_first_not_of(" \t\r");
        if (begin == std::string::npos || line[begin] == '#')
            continue;
        line = line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin);
        constexpr std::string_view kKind = "leak:";
        if (!line.starts_with(kKind) || line.size() == kKind.size())
            return path + ":" + std::to_string(number) + ": not of the form leak:PATTERN";
        patterns_.push_back(line.substr(kKind.size()));
    }
    return {};
}

const std::string *Suppressions::find(std::string_view function, std::string_view module) const {
    for (const std::string &pattern : patterns_)
        if ((!function.empty() && matches(pattern, function)) || matches(pattern, module))
            return &pattern;
    return nullptr;
}

} // namespace dwunw_tool::memleak
