// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One module's call-frame information: the sections, and the table that is compiled from them.
//
//     build()      takes the sections, compiles nothing
//     rule_at()    one FDE, found by FdeSearch ─────── until compile() has run ──────► the table
//     compile()    in any thread; tens of milliseconds for a big module
//
// A big module takes tens of milliseconds to compile, and some to read, and the first stack through it must not wait.
// Until there is a table, rule_at() executes the one FDE that covers the address. If FdeSearch cannot find it, every
// FDE is listed. Once there is a table, only the interpreter needs .eh_frame: the bytes that were read are dropped, and
// the interpreter reads its few FDEs again.
//
// Thread-safe after build().
#pragma once

#include "base/budget.h"
#include "base/lazy_section.h"
#include "base/result.h"
#include "base/section_bytes.h"
#include "dwarf/cfi_section.h"
#include "unwind/fde_list.h"
#include "unwind/fde_search.h"
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
    LinkAddr text_base{};  // base of DW_EH_PE_textrel pointers
    LinkAddr data_base{};  // base of DW_EH_PE_datarel pointers
    uint16_t machine = 0;  // e_machine
    Budget::Share share{}; // of a budget, for the bytes in this struct
    ReadCode read_code{};  // empty: the code is not read, the rules are the sections' own
};

class ModuleCfi {
  public:
    // DWUNW_ERR_UNSUPPORTED_ARCH, DWUNW_ERR_NO_CFI (neither section). Compiles nothing.
    static Result<std::unique_ptr<ModuleCfi>> build(CfiInput input);

    // The table. Compiles it if it does not exist yet; waits if another thread is compiling it. LazySection::whole()'s
    // errors, which are permanent: the file has changed.
    Result<const Table *> compile() const;
    // True for the first caller, which must have the table compiled.
    bool claim_compile() const { return !claimed_.exchange(true, std::memory_order_relaxed); }
    // nullptr: not compiled yet.
    const Table *table() const { return table_.load(std::memory_order_acquire); }

    // The rule that covers an address: from the table or, before there is one, from the FDE.
    struct RuleAt {
        // DWUNW_OK; DWUNW_ERR_NO_CFI; or the reason why the FDE was refused or cannot be read.
        dwunw_status status = DWUNW_ERR_NO_CFI;
        Rule rule;
        // The rule holds at least up to here. The table and an FDE may give different ends.
        LinkAddr end;
    };
    RuleAt rule_at(LinkAddr address) const;

    // The FDE that covers an address, .eh_frame before .debug_frame, and the section to which offsets of its
    // expressions refer. DWUNW_ERR_NO_CFI: none covers it; other errors: it cannot be read.
    struct FoundFde {
        dwarf::Fde fde;
        std::span<const uint8_t> section;
        std::shared_ptr<const FdeSearch> bytes{}; // owner of the bytes of both, unless the module itself owns them
    };
    Result<FoundFde> find_fde(LinkAddr address) const;
    // Every FDE, without the CIEs. Lists them if that has not happened yet. compile()'s errors.
    Result<const FdeList *> fdes() const;
    // The size of the sections, which decides how long compile() takes.
    size_t section_bytes() const;
    // The bytes of a budget that its sections have taken.
    uint64_t share_bytes() const { return share_.bytes(); }
    // The memory that it holds now, in bytes.
    size_t memory_bytes() const;

  private:
    ModuleCfi() = default;

    // Every section, complete, in order of preference.
    struct Sections {
        std::optional<LazySection::Whole> eh_frame;
        std::vector<dwarf::CfiSection> views;
    };
    Result<Sections> sections() const;
    void keep_index(FdeList index) const;

    std::shared_ptr<const FdeSearch> reader() const;
    // Where an address lies: in an FDE, or in a gap that ends at `next`.
    struct FdeOrGap {
        std::optional<FoundFde> fde;
        LinkAddr next;
    };
    Result<FdeOrGap> find_place(LinkAddr address) const;

    mutable std::mutex reader_mutex_;                 // only to copy or replace the pointer
    mutable std::shared_ptr<const FdeSearch> reader_; // of .eh_frame; nullptr: the module has none
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
    mutable FdeList index_;
    mutable std::atomic<bool> has_index_ = false;
};

} // namespace dwunw::unwind
