// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The structure of an ELF file, from bytes: segments, sections, build-id, and the decompressed call-frame sections.
// (System V gABI, chapters 4 and 5; LSB Core, "Exception Frames".)
//
// The image trusts no offset and no size in the file: kMax… bounds counts, the source's size bounds ranges. Immutable
// after parse(). If a function takes a ByteSource, the source must outlive the image.
#pragma once

#include "base/address.h"
#include "base/byte_source.h"
#include "base/lazy_section.h"
#include "base/result.h"
#include "base/section_bytes.h"
#include "elf/decompress.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dwunw::elf {

inline constexpr size_t kMaxProgramHeaders = 4096;
// A file that can be mapped has fewer; only object files have more. A sparse file can claim any number.
inline constexpr size_t kMaxSections = 1 << 16;
// The largest section that is read, compressed or not. The largest real .eh_frame has some 40 MB.
inline constexpr uint64_t kMaxSectionBytes = uint64_t{256} << 20;
// The most that compressed bytes may expand to: this many times their size in the file, but at least this many bytes.
// Real call-frame information and symbol tables expand three to ten times; zlib can reach 1,032, zstd 32,768, xz 7,000.
inline constexpr uint64_t kMaxExpansion = 32;
inline constexpr uint64_t kSmallExpanded = uint64_t{1} << 20;
constexpr uint64_t expanded_limit(uint64_t in_file) {
    const uint64_t times = in_file > kMaxSectionBytes / kMaxExpansion ? kMaxSectionBytes : in_file * kMaxExpansion;
    return times > kSmallExpanded ? times : kSmallExpanded;
}

struct Segment {
    FileOffset offset;
    uint64_t file_size = 0;
    LinkAddr address;
    uint64_t memory_size = 0;
    bool executable = false;
};

struct Section {
    std::string name;
    uint32_t type = 0;
    uint64_t flags = 0;
    LinkAddr address;
    FileOffset offset;
    uint64_t size = 0; // in the file
    uint32_t link = 0; // sh_link
};

class Image {
  public:
    // DWUNW_ERR_NOT_ELF, DWUNW_ERR_ELF_MALFORMED, DWUNW_ERR_UNSUPPORTED_ARCH (not 64-bit little-endian).
    static Result<Image> parse(const ByteSource &source);

    uint16_t machine() const { return machine_; } // e_machine
    uint16_t type() const { return type_; }       // e_type
    LinkAddr entry() const { return entry_; }     // e_entry
    const std::vector<Segment> &load_segments() const { return loads_; }
    const std::vector<Section> &sections() const { return sections_; }
    const std::vector<uint8_t> &build_id() const { return build_id_; }

    // The memory that this holds.
    size_t memory_bytes() const;

    // The PT_LOAD segment that holds a file offset or an address; nullptr if none does.
    const Segment *segment_of(FileOffset offset) const;
    const Segment *segment_of(LinkAddr address) const;
    std::optional<FileOffset> file_offset(LinkAddr address) const;
    bool is_executable(LinkAddr address) const;

    // Empty if the file has no such section; an error if it has one that cannot be read. Compressed sections
    // (SHF_COMPRESSED with zlib or zstd, or a .zdebug_ name) are returned decompressed. DWUNW_ERR_LIMIT, before
    // anything is unpacked: the section is larger than kMaxSectionBytes or expanded_limit().
    Result<std::optional<SectionBytes>> read_section(const ByteSource &source, std::string_view name) const;
    // The number of bytes that read_section() would return, by the section's header; 0 if there is no such section. The
    // same errors, as far as the header shows them.
    Result<uint64_t> section_size(const ByteSource &source, std::string_view name) const;
    bool is_compressed(std::string_view name) const;

    // .eh_frame by section header, or through PT_GNU_EH_FRAME in a file without section headers.
    Result<std::optional<SectionBytes>> read_eh_frame(const ByteSource &source) const;
    // The same, but reads no bytes unless the section is compressed.
    Result<std::optional<LazySection>> open_eh_frame(std::shared_ptr<const ByteSource> source) const;

    // The bytes at PT_GNU_EH_FRAME, not read yet; empty if the file has none or not all of it.
    std::optional<LazySection> open_eh_frame_hdr(std::shared_ptr<const ByteSource> source) const;

    // The addresses that DW_EH_PE_datarel (.got) and DW_EH_PE_textrel (.text) pointers in .eh_frame are relative to; 0:
    // unknown.
    LinkAddr data_base() const { return data_base_; }
    LinkAddr text_base() const { return text_base_; }

  private:
    Status parse_sections(const ByteSource &source, uint64_t offset, uint16_t entry_size, uint64_t count,
                          uint32_t names_index);
    struct Range {
        FileOffset offset;
        uint64_t size = 0;
        LinkAddr address;
        bool compressed = false;
    };
    // Where a section's bytes lie, and how they are stored.
    struct Contents {
        FileOffset offset;
        uint64_t packed = 0; // in the file
        uint64_t size = 0;   // decompressed
        std::optional<Compression> method{};
    };
    const Section *find_section(std::string_view name) const;
    static bool is_compressed(const Section &section, std::string_view name);
    static Result<Contents> find_contents(const ByteSource &source, const Section &section, std::string_view name);
    // Whether the file may have bytes at an address: false if it has section headers and none of its sections is there.
    bool may_hold(LinkAddr address) const;
    Result<std::optional<Range>> find_eh_frame(const ByteSource &source) const;
    void read_build_id(const ByteSource &source, FileOffset offset, uint64_t size);

    uint16_t machine_ = 0;
    uint16_t type_ = 0;
    LinkAddr entry_;
    std::vector<Segment> loads_;
    std::vector<Section> sections_;
    std::vector<uint8_t> build_id_;
    uint64_t note_bytes_read_ = 0;
    std::optional<Segment> eh_frame_hdr_segment_;
    LinkAddr data_base_;
    LinkAddr text_base_;
};

} // namespace dwunw::elf
