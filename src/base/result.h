// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A value or a typed error. Everything inside the library reports failure by it; no exception carries an error.
#pragma once

#include <dwunw/dwunw_api.h>

#include <cassert>
#include <cstdint>
#include <optional>
#include <utility>
#include <variant>

namespace dwunw {

// `value` is the offending value (an offset, an encoding, an opcode), for messages and tests.
struct Error {
    dwunw_status status;
    uint64_t value = 0;
};

template <typename T> class [[nodiscard]] Result {
  public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, error) { assert(error.status != DWUNW_OK); }

    bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    T &operator*() { return *std::get_if<0>(&state_); }
    const T &operator*() const { return *std::get_if<0>(&state_); }
    T *operator->() { return std::get_if<0>(&state_); }
    const T *operator->() const { return std::get_if<0>(&state_); }
    const Error &error() const { return *std::get_if<1>(&state_); }

  private:
    std::variant<T, Error> state_;
};

// Success, or a typed error.
class [[nodiscard]] Status {
  public:
    Status() = default;
    Status(Error error) : error_(error) { assert(error.status != DWUNW_OK); }

    bool ok() const { return error_.status == DWUNW_OK; }
    explicit operator bool() const { return ok(); }
    const Error &error() const { return error_; }
    dwunw_status status() const { return error_.status; }

  private:
    Error error_{DWUNW_OK};
};

} // namespace dwunw
