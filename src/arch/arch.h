// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Everything that the engine asks about an architecture. Each architecture has a folder with files of the same names,
// so that a port is a checklist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dwunw::arch {

// The position of a saved register in a signal frame: SP + sp_offset, with the trampoline's SP.
struct SavedRegister {
    uint8_t reg;
    uint8_t sp_offset;
};

// The next instructions of a thread, as long as they change no register but the pc.
struct CodeFlow {
    enum class Kind : uint8_t {
        kUnknown, // the code is not known
        kGoesOn,  // to `offset` bytes from the pc
        kReturns, // to the address that SP points to
    } kind = Kind::kUnknown;
    int64_t offset = 0;
    bool always = false; // for all register values
};

// The CFA of a row: from `start` bytes into the function on, CFA = SP + cfa_offset, or the CFA comes from something
// else.
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
// The source of the address that a call or a jump goes to.
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

// The part of an instruction that says where a function keeps its return address: its length, where it goes, and its
// effect on SP and FP.
struct Instruction {
    enum class Flow : uint8_t {
        kNext,         // to the next instruction
        kBranch,       // to the next instruction, or to `target`
        kJump,         // to `target`
        kIndirectJump, // to an unknown address
        kCall,         // calls `target`; then the next instruction, if the callee returns
        kIndirectCall, // calls an unknown address; likewise
        kSystemCall,   // a system call; likewise
        kReturn,       // to the address that SP points to; `offset` more bytes are removed
        kEnd,          // nowhere: a trap
    } flow = Flow::kNext;
    enum class Effect : uint8_t {
        kNone,    // SP and FP keep their values
        kPush,    // SP -= 8; [SP] = FP, if `of_fp`
        kPop,     // FP = [SP], if `of_fp`; SP += 8
        kSetSp,   // SP = base + offset
        kSetFp,   // FP = base + offset
        kLoadFp,  // FP = [base + offset]
        kStoreFp, // [base + offset] = FP
        kLeave,   // SP = FP; FP = [SP]; SP += 8
        kLoseSp,  // SP becomes unknown
        kLoseFp,  // FP becomes unknown
        kLose,    // both become unknown
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
    uint8_t sp, fp;           // their DWARF numbers
    uint8_t ra;               // the return address column's
    uint8_t pc;               // the pc's in a register set; `ra`: a call leaves no register with the return address
    uint64_t preserved;       // bit n: a call keeps register n unless a rule says otherwise
    const char *const *names; // register_count of them
    // The most bytes of code that ends_in_call reads.
    size_t max_call_length;
    // Whether the bytes before a return address can end in a call instruction. Never false for a real call.
    bool (*ends_in_call)(std::span<const uint8_t> code);
    // The targets that the call at the end of `code` may have; the bytes can be read as several calls. Returns their
    // number; 0: no call ends there. `code` is as for ends_in_call, but longer by call_context bytes if these can be
    // read.
    size_t (*call_targets)(std::span<const uint8_t> code, std::span<CodeTarget, kMaxCallTargets> out);
    size_t call_context;
    // Whether code[0…] only jumps to an address that it reads, like a PLT entry. `target` is the jump's target,
    // `length` the number of bytes up to the jump's end.
    bool (*is_jump_stub)(std::span<const uint8_t> code, CodeTarget &target, size_t &length);
    // Code that the kernel executes for the thread, or may execute. None of its instructions changes SP before it
    // returns.
    uint64_t kernel_code_start, kernel_code_size;
    // True if a function never writes register `reg` (a DWARF number), calls nothing, and is not left by a jump. `code`
    // is the whole function; `entered_at` are the offsets at which it is entered. False proves nothing.
    bool (*leaves_alone)(std::span<const uint8_t> code, uint8_t reg, std::span<const size_t> entered_at);
    // Follows the instructions of code[pc…]. `code` may begin before the pc, if those bytes could be read. `result` is
    // the value of the register that returns a system call's result. Bounded by the size of `code`.
    CodeFlow (*follow)(std::span<const uint8_t> code, size_t pc, std::optional<uint64_t> result);
    uint8_t result; // that register
    // The first place from `from` on where the bytes look like an instruction that sets SP to something other than SP
    // plus a constant; code.size(): there is none. Fast, and often wrong in saying that there is one.
    size_t (*find_sp_replacement)(std::span<const uint8_t> code, size_t from);
    // The ranges, ascending, in a function that replaces SP, where its rows "CFA = SP + n" are wrong. `rows`:
    // ascending, the first one at 0. Takes time in proportion to the code.
    void (*find_lost_sp)(std::span<const uint8_t> code, std::span<const SpRow> rows, std::vector<CodeRange> &lost);
    // The target of the direct call that `code` ends in, relative to the return address; nullopt: it ends in no direct
    // call.
    std::optional<int64_t> (*direct_call)(std::span<const uint8_t> code);
    // The last place before `end` that looks like the beginning of a function with a frame pointer. Once the frame
    // pointer is set up, the CFA is FP + 2 words.
    std::optional<size_t> (*frame_begins)(std::span<const uint8_t> code, size_t end);
    // The instruction at the beginning of `code`; nullopt: there is none, or it is cut. SP and FP become unknown at an
    // instruction whose effect is not known exactly.
    std::optional<Instruction> (*decode)(std::span<const uint8_t> code);
    size_t max_instruction_length;
    // At a function's first instruction, SP % stack_alignment has this value in psABI code.
    uint64_t stack_alignment;
    uint64_t entry_misalignment;
    // The first code bytes of the place to which a function started by makecontext returns. Nothing has called that
    // place.
    std::span<const uint8_t> context_end;
    // The code of the kernel's return-from-signal trampoline, for a pc without CFI (musl writes none).
    std::span<const uint8_t> signal_trampoline;
    size_t signal_trampoline_syscall; // the offset of its system call; SP is unchanged up to there
    // The registers that the frame at that trampoline has saved.
    std::span<const SavedRegister> signal_frame;
};

// nullptr: it is not the architecture that this library is built for (arch/selected.h).
const Arch *find_by_machine(uint16_t machine);
const Arch *find_by_id(uint32_t id);

} // namespace dwunw::arch
