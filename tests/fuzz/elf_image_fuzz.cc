// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Reads any bytes as an ELF file: sections, also compressed ones, notes, call-frame sections by header and by segment.
// Proves that it ends, that the file bounds the memory it takes, that addresses and offsets convert back and forth, and
// that the rules found can be compiled.
#include "elf/image.h"

#include "fuzz.h"
#include "unwind/module_cfi.h"

namespace dwunw {
namespace {

using fuzz::require;

constexpr size_t kSectionsRead = 64;

void check_segments(const elf::Image &image) {
    for (const elf::Segment &segment : image.load_segments()) {
        const elf::Segment *found = image.segment_of(segment.address);
        require(segment.memory_size == 0 || found != nullptr, "a PT_LOAD's first address lies in a PT_LOAD");
        require(found == nullptr || segment.address - found->address < found->memory_size,
                "a PT_LOAD that is found holds the address");
        const auto offset = image.file_offset(segment.address);
        if (!offset)
            continue;
        require(found != nullptr && *offset == found->offset + (segment.address - found->address),
                "an address's file offset is its segment's");
        require(image.segment_of(*offset) != nullptr, "that offset lies in a PT_LOAD");
    }
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    const auto shared = std::make_shared<const MemorySource>(std::span(data, size));
    const MemorySource &source = *shared;
    const auto image = elf::Image::parse(source);
    if (!image)
        return 0;
    check_segments(*image);
    require(image->build_id().size() <= size, "a build-id comes out of the file");
    require(image->sections().size() <= std::min(elf::kMaxSections, size / 64), "so do sections");
    for (size_t i = 0; i < std::min(image->sections().size(), kSectionsRead); ++i) {
        const auto &section = image->sections()[i];
        const auto bytes = image->read_section(source, section.name);
        require(!bytes || !*bytes || (*bytes)->bytes.size() <= elf::expanded_limit(size),
                "what a section becomes is bounded by the file");
        const auto stated = image->section_size(source, section.name);
        require(!bytes || (stated && *stated == (*bytes ? (*bytes)->bytes.size() : 0)), "and known before it is read");
    }

    const auto whole = image->read_eh_frame(source);
    const auto opened = image->open_eh_frame(shared);
    require(whole.ok() == opened.ok() && (!whole || whole->has_value() == opened->has_value()),
            "a section can be opened if it can be read");
    require(!whole || !*whole ||
                ((*whole)->bytes.size() == (*opened)->size() && (*whole)->address == (*opened)->address()),
            "and is the same");
    unwind::CfiInput input;
    if (auto eh_frame = image->open_eh_frame(shared))
        input.eh_frame = std::move(*eh_frame);
    if (auto debug_frame = image->read_section(source, ".debug_frame"))
        input.debug_frame = std::move(*debug_frame);
    input.eh_frame_hdr = image->open_eh_frame_hdr(shared);
    input.text_base = image->text_base();
    input.data_base = image->data_base();
    input.machine = image->machine();
    if (const auto module = unwind::ModuleCfi::build(std::move(input))) {
        (void)(*module)->rule_at(image->entry());
        require((*module)->compile().ok(), "a file that does not change can be compiled");
        (void)(*module)->rule_at(image->entry());
    }
    return 0;
}
