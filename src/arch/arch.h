// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the engine asks of an architecture. One folder per architecture, with files of the same names in each, so that a
// port is a checklist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dwunw::arch {

// Where a signal frame keeps one register: at SP + sp_offset, SP being the trampoline's.
struct SavedRegister {
    uint8_t reg;
    uint8_t sp_offset;
};

// Where the next instructions of a thread lead, as far as they change no register but the pc.
struct CodeFlow {
    enum class Kind : uint8_t {
        kUnknown, // nowhere that is known
        kGoesOn,  // to `offset` bytes from the pc
        kReturns, // to the address that SP points to
    } kind = Kind::kUnknown;
    int64_t offset = 0;
    bool always = false; // whatever the registers hold
};

// A row of a function's call-frame information, as far as the CFA goes: from `start` bytes into the function on,
// CFA = SP + cfa_offset, or the CFA comes from something else.
struct SpRow {
    uint32_t start = 0;
    bool from_sp = false;
    int32_t cfa_offset = 0;
};

// Bytes [start, end) of a function.
struct CodeRange {
    uint32_t start = 0;
    uint32_t end = 0;
};

struct Arch {
    uint32_t id;              // enum dwunw_arch
    uint16_t machine;         // e_machine
    uint8_t register_count;   // DWARF registers tracked, the return address column included
    uint8_t sp, fp, ra;       // their DWARF numbers; `ra` is also the pc's in a register set
    uint64_t preserved;       // bit n: a call keeps register n unless a rule says otherwise
    const char *const *names; // register_count of them
    // The most bytes of code that ends_in_call looks at.
    size_t max_call_length;
    // Whether the bytes that end at a return address can end in a call instruction. Never false for a real call.
    bool (*ends_in_call)(std::span<const uint8_t> code);
    // Follows the instructions of code[pc…]; `code` may begin before the pc, where that could be read. `result` is the
    // register that a system call returns in. Bounded by the size of `code`.
    CodeFlow (*follow)(std::span<const uint8_t> code, size_t pc, std::optional<uint64_t> result);
    uint8_t result; // that register
    // Whether the code before code[pc] shows that its function has set FP up; `in_call`: it is calling another. False
    // proves nothing. Nothing where these bytes do not tell, and more of them might. The first `context` bytes are only
    // there to be looked back at: frame_set_up_context of them, unless the code begins with them.
    size_t frame_set_up_context;
    std::optional<bool> (*frame_set_up)(std::span<const uint8_t> code, size_t pc, bool in_call, size_t context);
    // The first place from `from` on where the bytes look like an instruction that gives SP another value than a
    // constant away from its own; code.size() where none does. Costs little a byte, and says yes too often.
    size_t (*find_sp_replacement)(std::span<const uint8_t> code, size_t from);
    // Where in a function that replaces SP its rows "CFA = SP + n" do not hold: ascending ranges. `rows`: ascending,
    // the first one at 0. The work is in proportion to the code.
    void (*find_lost_sp)(std::span<const uint8_t> code, std::span<const SpRow> rows, std::vector<CodeRange> &lost);
    // The code of the kernel's return-from-signal trampoline, at a pc without CFI (musl writes none).
    std::span<const uint8_t> signal_trampoline;
    size_t signal_trampoline_syscall; // where its system call stands; SP is still the same there
    // What the frame at that trampoline saved.
    std::span<const SavedRegister> signal_frame;
};

// nullptr for an architecture that is not supported.
const Arch *find_by_machine(uint16_t machine);
const Arch *find_by_id(uint32_t id);

} // namespace dwunw::arch
