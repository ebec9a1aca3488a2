// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One module's call-frame information: the sections, and the table compiled from them.
//
// A big module takes some tens of milliseconds to compile, and some to read, and the first stack through it shall not
// wait for that. So build() only takes the sections, and until compile() has run (in whatever thread), rule_at()
// executes the one FDE that is asked for, which FdeReader finds; where that does not know, every FDE is listed. Once
// there is a table, .eh_frame is not needed any more but for what the interpreter is asked, so what was read of it is
// given back, and those few FDEs are read again.
//
// Thread-safe after build().
#pragma once

#include "base/budget.h"
#include "base/lazy_section.h"
#include "base/result.h"
#include "base/section_bytes.h"
#include "dwarf/cfi_section.h"
#include "unwind/fde_index.h"
#include "unwind/fde_reader.h"
#include "unwind/lost_sp.h"
#include "unwind/table.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>

namespace dwunw::unwind {

struct CfiInput {
    std::optional<LazySection> eh_frame{};
    std::optional<LazySection> eh_frame_hdr{}; // of that section
    std::optional<SectionBytes> debug_frame{};
    LinkAddr text_base{};  // what DW_EH_PE_textrel pointers are relative to
    LinkAddr data_base{};  // and DW_EH_PE_datarel ones
    uint16_t machine = 0;  // e_machine
    Budget::Share share{}; // of the bytes that are here; kept as long as they are
    ReadCode read_code{};  // empty: rules are what the sections say, whatever the code does
};

class ModuleCfi {
  public:
    // DWUNW_ERR_UNSUPPORTED_ARCH, DWUNW_ERR_NO_CFI (neither section). Compiles nothing.
    static Result<std::unique_ptr<ModuleCfi>> build(CfiInput input);

    // The table, compiled now unless it has been. Waits for another thread that is at it. LazySection::whole()'s
    // errors, which stay: the file is another one by now.
    Result<const Table *> compile() const;
    // True for the first who asks: whose business it is to have it compiled.
    bool claim_compile() const { return !claimed_.exchange(true, std::memory_order_relaxed); }
    // nullptr until it is compiled.
    const Table *table() const { return table_.load(std::memory_order_acquire); }

    // The rule in force at an address, from the table or, before there is one, from its FDE.
    struct RuleAt {
        // DWUNW_OK; DWUNW_ERR_NO_CFI; why the FDE was refused or cannot be read.
        dwunw_status status = DWUNW_ERR_NO_CFI;
        Rule rule;
        // At least up to here; what a table and an FDE say may differ.
        LinkAddr end;
    };
    RuleAt rule_at(LinkAddr address) const;

    // The FDE that covers an address, .eh_frame before .debug_frame, and the section its expressions' offsets refer to;
    // DWUNW_ERR_NO_CFI where none does; why it cannot be read.
    struct FoundFde {
        dwarf::Fde fde;
        std::span<const uint8_t> section;
        std::shared_ptr<const FdeReader> bytes{}; // what both are views of, unless the module itself holds it
    };
    Result<FoundFde> find_fde(LinkAddr address) const;
    // Every FDE, listed now unless it has been, without the CIEs. Errors as compile()'s.
    Result<const FdeIndex *> fdes() const;
    // The sections' bytes, which decide how long compile() takes.
    size_t section_bytes() const;
    // Of its sections, what was taken from a budget.
    uint64_t share_bytes() const { return share_.bytes(); }
    // What it holds by now, in bytes.
    size_t memory_bytes() const;

  private:
    ModuleCfi() = default;

    // Every section whole, in order of preference.
    struct Sections {
        std::optional<LazySection::Whole> eh_frame;
        std::vector<dwarf::CfiSection> views;
    };
    Result<Sections> sections() const;
    void keep_index(FdeIndex index) const;

    std::shared_ptr<const FdeReader> reader() const;
    // Where an address lies: in an FDE, or before `next`.
    struct Place {
        std::optional<FoundFde> fde;
        LinkAddr next;
    };
    Result<Place> find_place(LinkAddr address) const;

    mutable std::mutex reader_mutex_;                 // only to copy or replace the pointer
    mutable std::shared_ptr<const FdeReader> reader_; // of .eh_frame; nullptr where there is none
    size_t eh_frame_bytes_ = 0;
    std::optional<SectionBytes> debug_frame_;
    LinkAddr text_base_;
    LinkAddr data_base_;
    const arch::Arch *arch_ = nullptr;
    Budget::Share share_;
    ReadCode read_code_;

    mutable std::atomic<bool> claimed_ = false;
    mutable std::once_flag compile_once_;
    mutable Status compiling_;
    mutable std::unique_ptr<const Table> compiled_;
    mutable std::atomic<const Table *> table_ = nullptr;
    mutable std::once_flag index_once_;
    mutable Status listing_;
    mutable FdeIndex index_;
    mutable std::atomic<bool> has_index_ = false;
};

} // namespace dwunw::unwind
