// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An ELF file for the placement of probes: function symbols, and the code around a function. Immutable after open();
// thread-safe. Nothing in the file is trusted: elf::Image's limits, and those here, bound sizes and counts.
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
    // elf::Image::parse's errors; DWUNW_ERR_UNSUPPORTED_ARCH.
    static Result<std::unique_ptr<FunctionFile>> open(std::unique_ptr<const ByteSource> source);

    const elf::FunctionSymbols &symbols() const { return symbols_; }

    struct Placed {
        Placement placement;
        FileOffset entry;
    };
    Result<Placed> place(elf::FunctionSymbols::Function function, const dwunw_probe_options &options) const;

    // The places where a call returns after it has passed the instruction at this file offset, e.g. a probe's at the
    // beginning.
    struct FileReturns {
        std::vector<dwunw_probe_return> returns; // ascending; empty: unknown, or the function never returns
        std::string unknown;                     // the reason, in words; empty: they are known
    };
    FileReturns find_returns(FileOffset probe) const;

    bool is_loaded(LinkAddr address, uint64_t size) const override;
    bool is_got(LinkAddr address, uint64_t size) const override;
    Result<std::string> other_way_in(EntryRange range) const override;

  private:
    FunctionFile(std::unique_ptr<const ByteSource> source, elf::Image image, elf::FunctionSymbols symbols)
        : source_(std::move(source)), image_(std::move(image)), symbols_(std::move(symbols)) {}
    void read_slots();
    // Whether a branch or an address in this segment's code leads into the range; every byte may begin an instruction.
    Result<std::string> find_reference(const elf::Segment &segment, EntryRange range) const;
    std::string find_landing_pad(EntryRange range) const;

    std::unique_ptr<const ByteSource> source_;
    elf::Image image_;
    elf::FunctionSymbols symbols_;
    std::map<LinkAddr, CodeMap::Target> slots_; // slots of the .got whose jumps have a known target
};

// A 32-bit displacement of a branch or a lea in `code`, which lies at `address`, that leads into the range: the address
// of the displacement. Every byte may begin an instruction.
std::optional<LinkAddr> find_displacement(std::span<const uint8_t> code, LinkAddr address, EntryRange range);

} // namespace dwunw::probe
