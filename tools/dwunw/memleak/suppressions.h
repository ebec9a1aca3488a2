// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stacks that are not shown, in LeakSanitizer's syntax:
//
//     # a comment
//     leak:^known_function$
//     leak:libfoo.so
//
// A pattern matches a stack if it matches the function name, or the path of the module, of one of its frames. `*`
// stands for any text; ^ and $ tie the pattern to the beginning and the end; without them it may lie anywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dwunw_tool::memleak {

class Suppressions {
  public:
    // Reads a file. Returns the problem, with the file's name and line; empty: none.
    std::string read(const std::string &path);
    bool empty() const { return patterns_.empty(); }

    // The pattern that matches one of these texts; null: none.
    const std::string *find(std::string_view function, std::string_view module) const;

    // Whether a pattern matches a text.
    static bool matches(std::string_view pattern, std::string_view text);

  private:
    std::vector<std::string> patterns_;
};

} // namespace dwunw_tool::memleak
