// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the frame loop asks about a process: which module's rules hold at an address, and the code bytes there. The
// process layer answers; tests answer from memory.
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <span>

struct dwunw_module;

namespace dwunw::unwind {

class ModuleCfi;

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
    const ModuleCfi *cfi = nullptr;             // lives as long as the context
    const dwunw_module *module = nullptr;
    LoadBias bias{};
    // The mapping [start, end) that this answer holds for.
    RunAddr start;
    RunAddr end;
};

class AddressSpace {
  public:
    virtual ~AddressSpace() = default;
    // Thread-safe.
    virtual CodeLocation find(RunAddr address) = 0;
    // Reads code bytes: from the module's file, or, for anonymous code of a live process, from its memory; false where
    // they cannot be had. Thread-safe.
    virtual bool read_code(RunAddr address, std::span<uint8_t> buffer) = 0;
    // Whether code is known to be mapped there; costs little, whatever the address. Thread-safe.
    virtual bool is_code(RunAddr address) { return find(address).kind != CodeKind::kUnmapped; }
};

} // namespace dwunw::unwind
