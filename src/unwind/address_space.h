// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The questions that the frame loop asks about a process: which module's rules cover an address, and which code bytes
// are there. The process layer answers them; tests answer from memory.
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <memory>
#include <optional>
#include <span>

struct dwunw_module;

namespace dwunw::unwind {

class ModuleCfi;
class RuleCache;

enum class CodeKind : uint8_t {
    kModule,           // an ELF file or the vDSO; `cfi` holds its rules
    kAnonymous,        // mapped and executable, without a file: JIT code
    kUprobeTrampoline, // the kernel's [uprobes] page: a return address there stands for a pending uretprobe
    kUnusableModule,   // a mapped file that could not be opened or is not usable ELF; `status` says why
    kUnmapped,
};

struct CodeLocation {
    CodeKind kind = CodeKind::kUnmapped;
    dwunw_status status = DWUNW_ERR_NO_MAPPING; // why there is no cfi
    std::shared_ptr<const ModuleCfi> cfi{};
    const dwunw_module *module = nullptr; // lives as long as the context
    LoadBias bias{};
    LinkAddr entry{}; // e_entry of a kModule; 0: it has none
    // The mapping's number, for AddressSpace::place(). Only the warm walk uses it.
    static constexpr uint32_t kNoPlace = UINT32_MAX;
    uint32_t place = kNoPlace;
    // The answer holds for the mapping [start, end).
    RunAddr start;
    RunAddr end;

    // Whether an address lies in the first instructions of the program's entry point, where the outermost frame of the
    // main thread is.
    bool is_entry_point(RunAddr address) const {
        // _start has a dozen instructions; the return address of its only call lies behind them.
        constexpr uint64_t kStartCodeBytes = 64;
        const LinkAddr link = bias.link(address);
        return kind == CodeKind::kModule && entry.value != 0 && link >= entry && link - entry < kStartCodeBytes;
    }
};

// The module of a mapping's number.
struct PlacedModule {
    const dwunw_module *module = nullptr;
    LoadBias bias{};
};

class AddressSpace {
  public:
    virtual ~AddressSpace() = default;
    // Thread-safe.
    virtual CodeLocation find(RunAddr address) = 0;
    // Reads code bytes from the module's file, or from a live process's memory if the code has no file. False if they
    // cannot be read. Thread-safe.
    virtual bool read_code(RunAddr address, std::span<uint8_t> buffer) = 0;
    // Whether code is known to be mapped there. Cheap for every address. Thread-safe.
    virtual bool is_code(RunAddr address) { return find(address).kind != CodeKind::kUnmapped; }

    // The rules by pc, and the generation to which the numbers of places belong now. A space may have no rules.
    struct Warm {
        RuleCache *rules = nullptr;
        uint64_t generation = 0;
        uint64_t now = 0; // CLOCK_MONOTONIC, ns, approximate; 0: unknown
    };
    virtual Warm warm() { return {}; }
    // nullopt: the number is of another generation, or the mapping must be checked again first, which find() does.
    virtual std::optional<PlacedModule> place(uint32_t /*number*/, uint64_t /*generation*/) { return std::nullopt; }
    // Whether an address lies in a module's code whose place is valid now. Cheap for every address.
    virtual bool is_warm_code(RunAddr /*address*/, uint64_t /*generation*/) { return false; }
};

} // namespace dwunw::unwind
