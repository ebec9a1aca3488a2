// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Every opcode of every map, with many ModRM bytes, behind the prefixes that matter: for tests that compare a decoder
// of x86-64 with another one. The bytes behind ModRM are small and differ, so that sizes and numbers can be told apart.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace dwunw::arch::x86_64 {

class EveryOpcode {
  public:
    // Calls visit(code); `code` is longer than any instruction.
    template <typename Visit> static void for_each(Visit visit) {
        legacy(visit);
        vex(visit);
        evex(visit);
        xop(visit);
    }

  private:
    using Bytes = std::vector<uint8_t>;

    template <typename Visit> static void behind(const Bytes &opening, bool all_mod_rm, Visit &visit) {
        constexpr std::array<uint8_t, 15> kRest = {0x64, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
                                                   0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e};
        for (unsigned opcode = 0; opcode < 256; ++opcode) {
            Bytes code = opening;
            code.push_back(static_cast<uint8_t>(opcode));
            code.push_back(0);
            const size_t mod_rm = code.size() - 1;
            code.insert(code.end(), kRest.begin(), kRest.end());
            for (unsigned value = 0; value < 256; ++value) {
                const bool of_registers = value >= 0xc0;
                if (!all_mod_rm && !of_registers && value % 8 != 4)
                    continue;
                code[mod_rm] = static_cast<uint8_t>(value);
                visit(std::span<const uint8_t>(code));
            }
        }
    }

    template <typename Visit> static void legacy(Visit &visit) {
        for (const Bytes &prefixes : std::initializer_list<Bytes>{{},
                                                                  {0x66},
                                                                  {0xf2},
                                                                  {0xf3},
                                                                  {0x67},
                                                                  {0x40},
                                                                  {0x41},
                                                                  {0x44},
                                                                  {0x48},
                                                                  {0x66, 0x48},
                                                                  {0xf3, 0x48},
                                                                  {0x48, 0x66}}) // the last REX prefix has no effect
            for (const Bytes &escape : std::initializer_list<Bytes>{{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}}) {
                Bytes opening = prefixes;
                opening.insert(opening.end(), escape.begin(), escape.end());
                behind(opening, true, visit);
            }
    }
    // `last`: vvvv is rsp, then rdx; the prefixes that belong to the opcode; W.
    template <typename Visit> static void vex(Visit &visit) {
        for (const unsigned vvvv : {0x58u, 0x68u})
            for (unsigned prefix = 0; prefix < 4; ++prefix) {
                behind({0xc5, static_cast<uint8_t>(0x80 | vvvv | prefix)}, false, visit);
                for (const unsigned w : {0u, 0x80u})
                    for (unsigned map = 0; map < 8; ++map)
                        behind({0xc4, static_cast<uint8_t>(0xe0 | map), static_cast<uint8_t>(w | vvvv | prefix)}, false,
                               visit);
            }
    }
    template <typename Visit> static void evex(Visit &visit) {
        for (unsigned prefix = 0; prefix < 4; ++prefix)
            for (const unsigned w : {0u, 0x80u})
                for (unsigned map = 0; map < 8; ++map)
                    behind({0x62, static_cast<uint8_t>(0xf0 | map), static_cast<uint8_t>(w | 0x7c | prefix), 0x08},
                           false, visit);
    }
    template <typename Visit> static void xop(Visit &visit) {
        for (unsigned map = 8; map < 12; ++map)
            behind({0x8f, static_cast<uint8_t>(0xe0 | map), 0x78}, false, visit);
    }
};

} // namespace dwunw::arch::x86_64
