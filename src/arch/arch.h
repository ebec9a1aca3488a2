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
// Where a call, or a jump, gets the address from that it goes to.
struct CodeTarget {
    static constexpr uint8_t kNone = 0xff;
    enum class Kind : uint8_t {
        kAddress,  // `displacement` from the instruction's end
        kRegister, // register `base` holds it
        kMemory,   // the word at base + index × scale + displacement holds it
        kElsewhere,
    } kind = Kind::kElsewhere;
    uint8_t base = kNone; // DWARF numbers
    uint8_t index = kNone;
    uint8_t scale = 1;
    bool from_end = false; // of kMemory: the instruction's end is the base
    int64_t displacement = 0;
};
inline constexpr size_t kMaxCallTargets = 24;

// One instruction, as far as it matters to where a function keeps its return address: its length, where it goes, and
// what it does to SP and FP.
struct Instruction {
    enum class Flow : uint8_t {
        kNext,         // to the next instruction
        kBranch,       // to the next instruction, or to `target`
        kJump,         // to `target`
        kIndirectJump, // nobody knows where
        kCall,         // of `target`; back to the next instruction, if the callee returns
        kIndirectCall, // likewise
        kSystemCall,   // likewise
        kReturn,       // to the address that SP points to; `offset` more bytes are removed
        kEnd,          // nowhere: a trap
    } flow = Flow::kNext;
    enum class Effect : uint8_t {
        kNone,    // SP and FP stay what they are
        kPush,    // SP -= 8; [SP] = FP, if `of_fp`
        kPop,     // FP = [SP], if `of_fp`; SP += 8
        kSetSp,   // SP = base + offset
        kSetFp,   // FP = base + offset
        kLoadFp,  // FP = [base + offset]
        kStoreFp, // [base + offset] = FP
        kLeave,   // SP = FP; FP = [SP]; SP += 8
        kLoseSp,  // SP is something else
        kLoseFp,  // FP is
        kLose,    // both are
    } effect = Effect::kNone;
    uint8_t length = 0;
    bool from_fp = false; // `base` is FP, not SP
    bool of_fp = false;
    int32_t offset = 0;
    int64_t target = 0; // from the instruction's first byte
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
    // What the call that ends `code` may call: bytes can be read as more than one call. Nothing where none ends there.
    // Returns how many there are. `code` is as for ends_in_call, and call_context bytes longer where these can be read.
    size_t (*call_targets)(std::span<const uint8_t> code, std::span<CodeTarget, kMaxCallTargets> out);
    size_t call_context;
    // Whether code[0…] does nothing but jump to an address that it reads, as the entries of a PLT do; `target` is the
    // jump's, `length` how far its end is from code[0].
    bool (*is_jump_stub)(std::span<const uint8_t> code, CodeTarget &target, size_t &length);
    // Code that the kernel executes for the thread, or may: none of its instructions changes SP before it returns.
    uint64_t kernel_code_start, kernel_code_size;
    // Whether a function, whose code this is from its first byte to its last, never writes register `reg` (a DWARF
    // number), calls nothing and is not left by a jump; `entered_at` are offsets at which it is entered. False proves
    // nothing.
    bool (*leaves_alone)(std::span<const uint8_t> code, uint8_t reg, std::span<const size_t> entered_at);
    // Follows the instructions of code[pc…]; `code` may begin before the pc, where that could be read. `result` is the
    // register that a system call returns in. Bounded by the size of `code`.
    CodeFlow (*follow)(std::span<const uint8_t> code, size_t pc, std::optional<uint64_t> result);
    uint8_t result; // that register
    // The first place from `from` on where the bytes look like an instruction that gives SP another value than a
    // constant away from its own; code.size() where none does. Costs little a byte, and says yes too often.
    size_t (*find_sp_replacement)(std::span<const uint8_t> code, size_t from);
    // Where in a function that replaces SP its rows "CFA = SP + n" do not hold: ascending ranges. `rows`: ascending,
    // the first one at 0. The work is in proportion to the code.
    void (*find_lost_sp)(std::span<const uint8_t> code, std::span<const SpRow> rows, std::vector<CodeRange> &lost);
    // Where the call that `code` ends in goes, from the return address; nothing where it is no direct one.
    std::optional<int64_t> (*direct_call)(std::span<const uint8_t> code);
    // The last place before `end` that looks like the beginning of a function with a frame pointer, SP + 2 words being
    // its CFA once it has been set up.
    std::optional<size_t> (*frame_begins)(std::span<const uint8_t> code, size_t end);
    // The instruction that `code` begins with; nothing where that is none, or not a whole one. What it does not know
    // well, it calls lost.
    std::optional<Instruction> (*decode)(std::span<const uint8_t> code);
    size_t max_instruction_length;
    // Where psABI code has SP at a function's first instruction: SP % stack_alignment is this.
    uint64_t stack_alignment;
    uint64_t entry_misalignment;
    // How the code begins that a function started by makecontext returns to; nothing called it.
    std::span<const uint8_t> context_end;
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
