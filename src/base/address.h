// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Typed addresses. Inside the library an address is never a bare integer, because three kinds exist and must not be
// mixed:
//
//     FileOffset  0x1139            a byte of the ELF file
//     LinkAddr    0x2139            the address that the linker gave it
//     RunAddr     0x55d0c4e52139    its address in the process = link address + load bias
#pragma once

#include <compare>
#include <cstdint>

namespace dwunw {

template <typename Tag> struct Address {
    uint64_t value = 0;

    constexpr Address() = default;
    constexpr explicit Address(uint64_t v) : value(v) {}

    constexpr auto operator<=>(const Address &) const = default;
    // Arithmetic wraps, as the machine's does. Callers check a result before they use it as an index.
    constexpr Address operator+(uint64_t delta) const { return Address(value + delta); }
    constexpr Address operator-(uint64_t delta) const { return Address(value - delta); }
    constexpr uint64_t operator-(Address other) const { return value - other.value; }
};

using FileOffset = Address<struct FileOffsetTag>; // a byte of the ELF file
using LinkAddr = Address<struct LinkAddrTag>;     // an ELF virtual address (p_vaddr, sh_addr, st_value)
using RunAddr = Address<struct RunAddrTag>;       // an address in the process

// Run address = link address + bias, modulo 2^64.
struct LoadBias {
    uint64_t value = 0;
    constexpr RunAddr run(LinkAddr a) const { return RunAddr(a.value + value); }
    constexpr LinkAddr link(RunAddr a) const { return LinkAddr(a.value - value); }
};

// Where a frame executes. A return address may already belong to the next function, because a call can be a function's
// last instruction. So the row and the symbol of a return address are looked up one byte before, inside the call. An
// instruction's own address (frame 0, or a frame that a signal interrupted) is looked up unchanged.
class CodeAddr {
  public:
    static constexpr CodeAddr instruction(RunAddr pc) { return CodeAddr(pc, false); }
    static constexpr CodeAddr return_address(RunAddr pc) { return CodeAddr(pc, true); }

    constexpr RunAddr pc() const { return pc_; }
    constexpr RunAddr lookup() const { return is_return_ ? pc_ - 1 : pc_; }
    constexpr bool is_return_address() const { return is_return_; }

  private:
    constexpr CodeAddr(RunAddr pc, bool is_return) : pc_(pc), is_return_(is_return) {}
    RunAddr pc_;
    bool is_return_;
};

} // namespace dwunw
