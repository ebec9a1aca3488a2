// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The part of an instruction that a tracer needs.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace dwunw::testing {

struct Instruction {
    enum class Kind : uint8_t { kOther, kCall, kReturn, kSystemCall, kBreakpoint } kind = Kind::kOther;
    uint64_t size = 0; // 0: unknown to the decoder, and then none of the above
};

// Zydis' opinion, remembered by the bytes.
class Decoder {
  public:
    static constexpr size_t kMaxSize = 15;

    // The instruction that `code` begins with.
    Instruction decode(std::span<const uint8_t> code);

  private:
    std::map<std::string, Instruction> known_;
};

} // namespace dwunw::testing
