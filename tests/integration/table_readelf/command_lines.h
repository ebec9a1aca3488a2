// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A command's output, line by line.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace table_readelf {

// Runs a command (looked up in PATH, in the C locale) and gives each line of its standard output and standard error, in
// the order written and without its newline, to `line`. Returns its exit status, 128 + n when signal n ended it; throws
// std::system_error when it cannot be started. Any number of threads may do so at once.
int run_command(const std::vector<std::string> &command, const std::function<void(std::string_view)> &line);

} // namespace table_readelf
