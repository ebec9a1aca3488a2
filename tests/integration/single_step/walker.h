// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A traced process, walked through dwunw's public interface.
#pragma once

#include <dwunw/process.h>
#include <dwunw/symbolize.h>
#include <dwunw/unwind.h>

#include <sys/user.h>

#include <span>
#include <string>
#include <vector>

namespace dwunw::testing {

struct Walked {
    dwunw_status status = DWUNW_OK;
    std::vector<dwunw_frame> frames;
};

class Walker {
  public:
    explicit Walker(pid_t pid);
    ~Walker();
    Walker(const Walker &) = delete;
    Walker &operator=(const Walker &) = delete;

    // Over the slice, and nothing else.
    Walked walk(const user_regs_struct &from, uint64_t start, std::span<const uint8_t> slice);
    // nullptr: none.
    const dwunw_module *module_at(uint64_t pc);
    // The bytes that could be read.
    size_t read(uint64_t address, std::span<uint8_t> buffer);
    uint64_t word(uint64_t address);
    std::string name(const dwunw_frame &frame);

  private:
    dwunw_context *context_ = nullptr;
    dwunw_process *process_ = nullptr;
    dwunw_symbolizer *symbolizer_ = nullptr;
};

} // namespace dwunw::testing
