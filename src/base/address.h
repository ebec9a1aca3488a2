// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Addresses are never bare integers inside the library: a place in a file, an address as the linker laid it out, and an
// address in the running process are three things, and adding them up in the wrong way is how frames go wrong.
#pragma once

#include <compare>
#include <cstdint>

namespace dwunw {

template <typename Tag> struct Address {
    uint64_t value = 0;

    constexpr Address() = default;
    constexpr explicit Address(uint64_t v) : value(v) {}

    constexpr auto operator<=>(const Address &) const = default;
    // Address arithmetic wraps as the machine's does; callers bound what they index with it.
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

// Where a frame executes. A return address may already belong to the next function (a call can be a function's last
// instruction), so the row and the symbol are looked up at the byte before it, inside the call; an instruction's own
// address (frame 0, an interrupted frame) is looked up as it is.
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
