// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The C ABI of dwunw/symbolize.h. Reads the symbols of a module once, when a frame first falls into it.
#include "abi/sized_structs.h"
#include "symbolize/module_symbols.h"

#include <dwunw/process.h>
#include <dwunw/symbolize.h>

#include <memory>
#include <new>
#include <unordered_map>

namespace {

// A module's image, read through the public interface.
class ModuleImage final : public dwunw::ByteSource {
  public:
    explicit ModuleImage(const dwunw_module *module) : module_(module) {}
    uint64_t size() const override { return dwunw_module_size(module_); }
    size_t read(dwunw::FileOffset offset, std::span<uint8_t> buffer) const override {
        return dwunw_module_read(module_, offset.value, buffer.data(), buffer.size());
    }

  private:
    const dwunw_module *module_;
};

// A module's symbols, or the reason why they cannot be read.
struct ModuleEntry {
    std::unique_ptr<dwunw::ModuleSymbols> symbols;
    dwunw_status status = DWUNW_OK;
};

} // namespace

struct dwunw_symbolizer {
    // For the symbol tables of all modules. A program's libraries have some tens of megabytes.
    static constexpr uint64_t kBudget = uint64_t{1} << 30;

    dwunw::Budget budget{kBudget};
    std::unordered_map<const dwunw_module *, ModuleEntry> modules;

    ModuleEntry &entry_of(const dwunw_module *module) {
        auto [place, is_new] = modules.try_emplace(module);
        ModuleEntry &entry = place->second;
        if (is_new) {
            // The status if an allocation below fails.
            entry.status = DWUNW_ERR_OUT_OF_MEMORY;
            auto opened = dwunw::ModuleSymbols::open(ModuleImage(module), budget);
            entry.status = opened ? DWUNW_OK : opened.error().status;
            if (opened)
                entry.symbols = std::move(*opened);
        }
        return entry;
    }
};

dwunw_status dwunw_symbolizer_open(struct dwunw_symbolizer **out) {
    if (!out)
        return DWUNW_ERR_INVALID_ARGUMENT;
    *out = new (std::nothrow) dwunw_symbolizer;
    return *out ? DWUNW_OK : DWUNW_ERR_OUT_OF_MEMORY;
}

void dwunw_symbolizer_close(struct dwunw_symbolizer *symbolizer) { delete symbolizer; }

dwunw_status dwunw_symbolize_frame(struct dwunw_symbolizer *symbolizer, const struct dwunw_frame *frame,
                                   struct dwunw_symbol *given) try {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (!symbolizer || !frame || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    if (!frame->module)
        return DWUNW_ERR_NO_MAPPING;
    const ModuleEntry &entry = symbolizer->entry_of(frame->module);
    if (!entry.symbols)
        return entry.status;

    // A return address may be the first byte of the next function, so look up the call before it. A signal trampoline
    // was never called: the handler returns to its first byte.
    const dwunw::LinkAddr pc(frame->module_offset);
    const bool exact = (frame->flags & (DWUNW_FRAME_FLAG_EXACT_PC | DWUNW_FRAME_FLAG_SIGNAL)) != 0;
    const auto symbol = entry.symbols->find(exact ? pc : pc - 1);
    if (!symbol)
        return symbol.error().status;
    out->name = symbol->name;
    out->raw_name = symbol->raw_name;
    out->offset = pc - symbol->start;
    return DWUNW_OK;
} catch (const std::bad_alloc &) {
    return DWUNW_ERR_OUT_OF_MEMORY;
}
