// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The commands of `dwunw`, and what they share. Exit codes: 0 success, 1 failure (stderr says why), 2 wrong usage.
#pragma once

#include <dwunw/dwunw_api.h>

#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

namespace dwunw_tool {

constexpr int kExitOk = 0;
constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

// Each adds its command to `app`. If the user gave that command, parsing runs it and sets `exit_code`.
void add_stack_command(CLI::App &app, int &exit_code);
void add_core_command(CLI::App &app, int &exit_code);
void add_table_command(CLI::App &app, int &exit_code);
// `rest`: the words behind --.
void add_memleak_command(CLI::App &app, const std::vector<std::string> &rest, int &exit_code);

// Prints "dwunw: <thing>: <problem>" and returns kExitFailure.
int fail(const std::string &thing, const std::string &problem);
int fail(const std::string &thing, dwunw_status status);

// Owns a handle of the C ABI.
template <typename T, void (*End)(T *)> struct HandleDeleter {
    void operator()(T *handle) const { End(handle); }
};
template <typename T, void (*End)(T *)> using Handle = std::unique_ptr<T, HandleDeleter<T, End>>;

// Receives a handle through the C ABI's out parameter.
template <typename H> class Receive {
  public:
    explicit Receive(H &handle) : handle_(handle) {}
    ~Receive() { handle_.reset(raw_); }
    Receive(const Receive &) = delete;
    Receive &operator=(const Receive &) = delete;
    operator typename H::pointer *() { return &raw_; }

  private:
    H &handle_;
    typename H::pointer raw_ = nullptr;
};

using Context = Handle<dwunw_context, dwunw_shutdown>;

} // namespace dwunw_tool
