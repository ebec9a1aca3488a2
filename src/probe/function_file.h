// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An ELF file as the placement of probes sees it: function symbols, and the code around a function. Immutable after
// open(), thread-safe. The file is untrusted; sizes and counts are bounded by elf::Image's limits and those here.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"
#include "elf/function_symbols.h"
#include "elf/image.h"
#include "probe/placement.h"
#include "probe/return_instructions.h"

#include <map>
#include <memory>
#include <string_view>
#include <vector>

namespace dwunw::probe {

class FunctionFile final : public Surroundings {
  public:
    // elf::Image::parse's errors; DWUNW_ERR_UNSUPPORTED_ARCH: not x86-64.
    static Result<std::unique_ptr<FunctionFile>> open(std::unique_ptr<const ByteSource> source);

    const elf::FunctionSymbols &symbols() const { return symbols_; }

    struct Placed {
        Placement placement;
        FileOffset entry;
    };
    Result<Placed> place(elf::FunctionSymbols::Function function, const dwunw_probe_options &options) const;

    // Where a call returns that comes by the instruction at this offset in the file, e.g. a probe's at the beginning.
    struct FileReturns {
        std::vector<dwunw_probe_return> returns; // ascending; empty: unknown, or the function never returns
        std::string unknown;                     // why, in words; empty: known
    };
    FileReturns find_returns(FileOffset probe) const;

    bool is_loaded(LinkAddr address, uint64_t size) const override;
    bool is_got(LinkAddr address, uint64_t size) const override;
    Result<std::string> other_way_in(EntryRange range) const override;

  private:
    FunctionFile(std::unique_ptr<const ByteSource> source, elf::Image image, elf::FunctionSymbols symbols)
        : source_(std::move(source)), image_(std::move(image)), symbols_(std::move(symbols)) {}
    void read_slots();
    // Whether a branch or an address in this segment's code, whatever instruction it belongs to, leads into the range.
    Result<std::string> find_reference(const elf::Segment &segment, EntryRange range) const;
    std::string find_landing_pad(EntryRange range) const;

    std::unique_ptr<const ByteSource> source_;
    elf::Image image_;
    elf::FunctionSymbols symbols_;
    std::map<LinkAddr, CodeMap::Target> slots_; // of the .got, as far as it is known where jumps through them lead
};

// A displacement of 32 bits in a branch or a lea, somewhere in `code`, which lies at `address`, that leads into the
// range: the address of the displacement. Each byte may be an instruction's first.
std::optional<LinkAddr> find_displacement(std::span<const uint8_t> code, LinkAddr address, EntryRange range);

} // namespace dwunw::probe
