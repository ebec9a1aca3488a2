// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Reads any bytes as a module with names: makes the image for libelf, and unpacks .gnu_debugdata. Proves that the file
// bounds both, that the image is an ELF file with the same segments and nothing compressed, and that names end.
#include "symbolize/mini_debug.h"
#include "symbolize/symbol_image.h"

#include "fuzz.h"

#include <cstring>

namespace dwunw {
namespace {

using fuzz::require;

void check_debugdata(std::span<const uint8_t> packed) {
    const auto unpacked = MiniDebug::unpack(packed);
    if (!unpacked)
        return;
    require(unpacked->bytes() <= elf::expanded_limit(packed.size()), "what is unpacked is bounded by the file");
    require(unpacked->symbols().size() <= unpacked->bytes() / sizeof(Elf64_Sym), "symbols are of the file");
    for (const MiniDebug::Symbol &symbol : unpacked->symbols())
        require(std::strlen(symbol.name) < unpacked->bytes(), "a name ends within it");
}

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace dwunw;
    const std::span<const uint8_t> bytes(data, size);
    check_debugdata(bytes);
    Budget budget(uint64_t{1} << 30);
    const uint64_t all = budget.left();
    {
        const auto made = SymbolImage::make(MemorySource(bytes), budget);
        require(all - budget.left() <= 3 * size, "no more is taken than the file has");
        if (!made)
            return 0;
        constexpr size_t kHeaders = 80; // a section header, and its alignment; a program header
        require(made->bytes.size() <= 3 * size + (made->image.sections().size() + 16) * kHeaders, "nor made of it");
        const auto shown = elf::Image::parse(MemorySource(made->bytes));
        require(shown.ok(), "what is shown is an ELF file");
        require(shown->load_segments().size() == made->image.load_segments().size(), "with the same segments");
        for (const elf::Section &section : shown->sections())
            require((section.flags & SHF_COMPRESSED) == 0, "and nothing to unpack");
        check_debugdata(made->debugdata);
    }
    require(budget.left() == all, "and all of it comes back");
    return 0;
}
