// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "probe/function_file.h"

#include "arch/selected_probe.h"
#include "base/cursor.h"
#include "dwarf/cfi_section.h"
#include "probe/landing_pads.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace dwunw::probe {

namespace {

constexpr size_t kChunkBytes = 256 << 10;
constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;
constexpr size_t kDisplacementBytes = 4;
constexpr size_t kOpcodeBytes = 2; // read before a displacement, to recognise it

uint32_t u32_at(const uint8_t *bytes) {
    uint32_t value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
}

} // namespace

std::optional<LinkAddr> find_displacement(std::span<const uint8_t> code, LinkAddr address, EntryRange range) {
    // target = address of the displacement + 4 + displacement. So, modulo 2^32, displacement + offset − from is the
    // distance into the range. Bytes that cannot reach the range need one addition and one comparison.
    const auto from = static_cast<uint32_t>(range.after.value + 1 - address.value - kDisplacementBytes);
    const auto width = static_cast<uint32_t>(range.last - range.after);
    for (size_t i = 1; i + kDisplacementBytes <= code.size(); ++i) {
        const uint32_t displacement = u32_at(&code[i]);
        if (displacement + static_cast<uint32_t>(i) - from >= width)
            continue;
        if (!arch::selected::precede_displacement(i >= kOpcodeBytes ? code[i - kOpcodeBytes] : 0, code[i - 1]))
            continue;
        const LinkAddr at = address + i;
        if (range.contains(at + kDisplacementBytes +
                           static_cast<uint64_t>(int64_t{static_cast<int32_t>(displacement)})))
            return at;
    }
    return std::nullopt;
}

Result<std::unique_ptr<FunctionFile>> FunctionFile::open(std::unique_ptr<const ByteSource> source) {
    auto image = elf::Image::parse(*source);
    if (!image)
        return image.error();
    if (image->machine() != arch::selected::kArch.machine)
        return Error{DWUNW_ERR_UNSUPPORTED_ARCH, image->machine()};
    auto symbols = elf::FunctionSymbols::read(*image, *source);
    if (!symbols)
        return symbols.error();
    std::unique_ptr<FunctionFile> file(new FunctionFile(std::move(source), std::move(*image), std::move(*symbols)));
    file->read_slots();
    return file;
}

Result<FunctionFile::Placed> FunctionFile::place(elf::FunctionSymbols::Function function,
                                                 const dwunw_probe_options &options) const {
    const elf::Segment *segment = image_.segment_of(function.start);
    if (segment == nullptr || !segment->executable || function.start - segment->address >= segment->file_size)
        return Error{DWUNW_ERR_NO_MAPPING, function.start.value};
    const uint64_t skip = function.start - segment->address;
    const FileOffset entry = segment->offset + skip;
    const uint64_t available = segment->file_size - skip;
    std::string unclear;
    if (function.size == 0)
        unclear = "the function's size is unknown";
    else if (function.size > available)
        unclear = "the function's size is beyond its segment";
    else if (function.size > kMaxFunctionBytes)
        unclear = "the function is too large to decode";
    // One instruction is enough to decode the entry.
    std::vector<uint8_t> code(
        std::min(unclear.empty() ? function.size : uint64_t{arch::selected::kMaxInstructionLength}, available));
    if (!source_->read_exactly(entry, code))
        return Error{DWUNW_ERR_IO, entry.value};
    if (!unclear.empty())
        return Placed{place_at_entry(code, function.start, options, DWUNW_PROBE_CODE_UNCLEAR, unclear), entry};
    auto placement = probe::place(code, function.start, options, this);
    if (!placement)
        return placement.error();
    return Placed{std::move(*placement), entry};
}

FunctionFile::FileReturns FunctionFile::find_returns(FileOffset probe) const {
    const elf::Segment *segment = image_.segment_of(probe);
    if (segment == nullptr || !segment->executable)
        return {{}, "the probe is not in code"};
    const CodeMap code = {
        .read = [this](LinkAddr address, std::span<uint8_t> buffer) -> size_t {
            const elf::Segment *at = image_.segment_of(address);
            if (at == nullptr || !at->executable || address - at->address >= at->file_size)
                return 0;
            const uint64_t skip = address - at->address;
            return source_->read(at->offset + skip,
                                 buffer.first(std::min<uint64_t>(buffer.size(), at->file_size - skip)));
        },
        .is_function =
            [this](LinkAddr address) { return std::ranges::binary_search(symbols_.code_addresses(), address); },
        .slot_target =
            [this](LinkAddr slot) {
                const auto found = slots_.find(slot);
                return found != slots_.end() ? found->second : CodeMap::Target{};
            },
    };
    Returns found = probe::find_returns(code, segment->address + (probe - segment->offset));
    FileReturns result{{}, std::move(found.unknown)};
    for (const auto &[address, place] : found.instructions) // it is code, so the file has it
        result.returns.push_back({image_.file_offset(address)->value, static_cast<uint32_t>(place), 0});
    if (result.returns.empty() && result.unknown.empty())
        result.unknown = "the function never returns";
    return result;
}

// Reads the relocations that fill the slots. A slot that is left out is unknown.
void FunctionFile::read_slots() {
    const auto symbols = image_.read_section(*source_, ".dynsym");
    const auto names = image_.read_section(*source_, ".dynstr");
    const auto target_of = [&](const Elf64_Rela &relocation) -> CodeMap::Target {
        const auto in_code = [&](LinkAddr address) -> CodeMap::Target {
            return {image_.is_executable(address) ? CodeMap::Target::Kind::kCode : CodeMap::Target::Kind::kUnknown,
                    address};
        };
        const auto by_name = [](std::string_view name) -> CodeMap::Target {
            const bool returns_argument = name == "memset" || name == "memcpy" || name == "memmove";
            return {returns_argument ? CodeMap::Target::Kind::kReturnsFirstArgument : CodeMap::Target::Kind::kUnknown,
                    {}};
        };
        const LinkAddr addend(static_cast<uint64_t>(relocation.r_addend));
        switch (ELF64_R_TYPE(relocation.r_info)) {
        case arch::selected::kRelativeSlot:
            return in_code(addend);
        case arch::selected::kIndirectRelative: { // the function at the addend chooses one of several; the symbol is
                                                  // there
            const std::string_view name = symbols_.resolved_name(addend);
            return name.empty() ? CodeMap::Target{} : by_name(name);
        }
        case arch::selected::kJumpSlot:
        case arch::selected::kGlobalSlot: {
            const uint64_t index = ELF64_R_SYM(relocation.r_info);
            if (index >= (*symbols)->bytes.size() / sizeof(Elf64_Sym))
                return {};
            Elf64_Sym symbol;
            std::memcpy(&symbol, (*symbols)->bytes.data() + index * sizeof(symbol), sizeof(symbol));
            if (symbol.st_shndx != SHN_UNDEF && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC)
                return in_code(LinkAddr(symbol.st_value));
            if (symbol.st_name >= (*names)->bytes.size())
                return {};
            return by_name(Cursor((*names)->bytes, symbol.st_name).c_string());
        }
        default:
            return {};
        }
    };
    if (!symbols || !*symbols || !names || !*names)
        return;
    for (const char *section : {".rela.plt", ".rela.dyn"}) {
        const auto entries = image_.read_section(*source_, section);
        if (!entries || !*entries)
            continue;
        for (size_t i = 0; i < (*entries)->bytes.size() / sizeof(Elf64_Rela); ++i) {
            Elf64_Rela relocation;
            std::memcpy(&relocation, (*entries)->bytes.data() + i * sizeof(relocation), sizeof(relocation));
            if (!is_got(LinkAddr(relocation.r_offset), sizeof(uint64_t)))
                continue;
            const CodeMap::Target target = target_of(relocation);
            if (target.kind != CodeMap::Target::Kind::kUnknown)
                slots_.emplace(LinkAddr(relocation.r_offset), target);
        }
    }
}

bool FunctionFile::is_loaded(LinkAddr address, uint64_t size) const {
    const elf::Segment *segment = image_.segment_of(address);
    return segment != nullptr && size <= segment->memory_size - (address - segment->address);
}

bool FunctionFile::is_got(LinkAddr address, uint64_t size) const {
    if (size != sizeof(uint64_t))
        return false;
    return std::any_of(image_.sections().begin(), image_.sections().end(), [&](const elf::Section &section) {
        return (section.name == ".got" || section.name == ".got.plt") && address >= section.address &&
               address - section.address < section.size && section.size - (address - section.address) >= size;
    });
}

Result<std::string> FunctionFile::other_way_in(EntryRange range) const {
    const auto addresses = symbols_.code_addresses();
    if (const auto symbol = std::ranges::upper_bound(addresses, range.after);
        symbol != addresses.end() && range.contains(*symbol))
        return "another symbol is at " + std::to_string(*symbol - range.after);
    if (std::string words = find_landing_pad(range); !words.empty())
        return words;
    uint64_t searched = 0;
    for (const elf::Segment &segment : image_.load_segments()) {
        if (!segment.executable)
            continue;
        if (segment.file_size > kMaxTextBytes - searched)
            return std::string("the file has too much code to search");
        searched += segment.file_size;
        auto words = find_reference(segment, range);
        if (!words || !words->empty())
            return words;
    }
    return std::string();
}

std::string FunctionFile::find_landing_pad(EntryRange range) const {
    const auto except_table = image_.read_section(*source_, ".gcc_except_table");
    const auto eh_frame = image_.read_eh_frame(*source_);
    if (!except_table || !eh_frame)
        return "the exception tables cannot be read";
    if (!*eh_frame)
        return {};
    const dwarf::CfiSection section(dwarf::SectionKind::kEhFrame, (*eh_frame)->bytes, (*eh_frame)->address,
                                    image_.text_base(), image_.data_base());
    const auto found = has_landing_pad(section, *except_table ? **except_table : SectionBytes{}, range);
    if (!found)
        return "the exception tables cannot be read";
    return *found ? "an exception's landing pad is there" : "";
}

Result<std::string> FunctionFile::find_reference(const elf::Segment &segment, EntryRange range) const {
    // Each chunk begins with the last bytes of the chunk before, because an instruction may lie across.
    constexpr size_t kOverlap = kOpcodeBytes + kDisplacementBytes - 1;
    std::vector<uint8_t> buffer(std::min<uint64_t>(segment.file_size, kChunkBytes + kOverlap));
    for (uint64_t done = 0; done < segment.file_size;) {
        const size_t count = std::min<uint64_t>(buffer.size(), segment.file_size - done);
        const std::span<uint8_t> chunk(buffer.data(), count);
        if (!source_->read_exactly(segment.offset + done, chunk))
            return Error{DWUNW_ERR_IO, segment.offset.value + done};
        if (const auto at = find_displacement(chunk, segment.address + done, range))
            return std::string("code outside the function leads behind the entry");
        if (count == segment.file_size - done)
            break;
        done += count - kOverlap;
    }
    return std::string();
}

} // namespace dwunw::probe
