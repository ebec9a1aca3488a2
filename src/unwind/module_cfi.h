// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One module's call-frame information: the sections' bytes for the full interpreter, and the table compiled from them.
// Immutable after build(): any number of threads may look rows up.
#pragma once

#include "base/result.h"
#include "base/section_bytes.h"
#include "dwarf/cfi_section.h"
#include "unwind/table.h"

#include <memory>
#include <optional>

namespace dwunw::unwind {

struct CfiInput {
    std::optional<SectionBytes> eh_frame{};
    std::optional<SectionBytes> debug_frame{};
    LinkAddr text_base{}; // what DW_EH_PE_textrel pointers are relative to
    LinkAddr data_base{}; // and DW_EH_PE_datarel ones
    LinkAddr entry{};     // e_entry
    uint16_t machine = 0; // e_machine
};

class ModuleCfi {
  public:
    // DWUNW_ERR_UNSUPPORTED_ARCH, DWUNW_ERR_NO_CFI (neither section).
    static Result<std::unique_ptr<ModuleCfi>> build(CfiInput input);

    const Table &table() const { return table_; }
    // The FDE that covers an address, .eh_frame before .debug_frame, and the section its expressions' offsets refer to;
    // DWUNW_ERR_NO_CFI where none does.
    struct FoundFde {
        dwarf::Fde fde;
        std::span<const uint8_t> section;
    };
    Result<FoundFde> find_fde(LinkAddr address) const;
    // Whether an address lies in the first instructions of the program's entry point, where the outermost frame of a
    // main thread is.
    bool is_entry_point(LinkAddr address) const;

  private:
    ModuleCfi() = default;
    std::optional<SectionBytes> eh_frame_bytes_;
    std::optional<SectionBytes> debug_frame_bytes_;
    std::vector<dwarf::CfiSection> sections_; // views of the bytes above, in order of preference
    Table table_;
    LinkAddr entry_;
};

} // namespace dwunw::unwind
