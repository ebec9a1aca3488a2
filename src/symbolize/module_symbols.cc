// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One Dwfl session for each module, which reports the module at its own link addresses. So every address here is one.
#include "symbolize/module_symbols.h"

#include "symbolize/demangle.h"

#include <elfutils/libdwfl.h>
#include <gelf.h>
#include <libelf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

namespace dwunw {
namespace {

constexpr size_t kMaxName = size_t{64} * 1024; // a symbol with a longer name is ignored

// Gives libdwfl an Elf that is already open. Without a descriptor, so that libdwfl has none to close or to map.
int find_elf(Dwfl_Module *, void **userdata, const char *, Dwarf_Addr, char **, Elf **elf) {
    *elf = static_cast<Elf *>(std::exchange(*userdata, nullptr));
    return -1;
}

// By build-id only: names and paths in the target's file must not choose what is opened.
char *debug_root() {
    static char root[] = "/usr/lib/debug";
    return root;
}

const Dwfl_Callbacks *callbacks() {
    static char *path = debug_root();
    static const Dwfl_Callbacks table = {
        .find_elf = find_elf,
        .find_debuginfo = dwfl_build_id_find_debuginfo,
        .section_address = dwfl_offline_section_address,
        .debuginfo_path = &path,
    };
    return &table;
}

struct AddressRange {
    LinkAddr start, end;
};

// The addresses of the image. The start is computed as in libdwfl (the first PT_LOAD's page), so that its bias is 0.
Result<AddressRange> loaded_range(Elf *elf) {
    size_t count = 0;
    if (elf_getphdrnum(elf, &count) != 0)
        return Error{DWUNW_ERR_ELF_MALFORMED};
    std::optional<AddressRange> range;
    for (size_t i = 0; i < count; i++) {
        GElf_Phdr phdr;
        if (!gelf_getphdr(elf, static_cast<int>(i), &phdr))
            return Error{DWUNW_ERR_ELF_MALFORMED, i};
        if (phdr.p_type != PT_LOAD)
            continue;
        if (!range)
            range = AddressRange{LinkAddr(phdr.p_vaddr & -phdr.p_align), {}};
        range->end = std::max(range->end, LinkAddr(phdr.p_vaddr + phdr.p_memsz));
    }
    if (!range || range->end <= range->start)
        return Error{DWUNW_ERR_ELF_MALFORMED};
    return *range;
}

// Whether libdwfl should have found symbols. This separates a stripped image from one whose tables cannot be read.
bool has_symbol_table(Elf *elf) {
    for (Elf_Scn *section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
        GElf_Shdr header;
        if (gelf_getshdr(section, &header) && (header.sh_type == SHT_SYMTAB || header.sh_type == SHT_DYNSYM))
            return true;
    }
    return false;
}

// libdwfl returns names as pointers into string tables. It checks that a name begins inside the table, but not that it
// ends there. This class knows which bytes a string may occupy.
class StringTables {
  public:
    explicit StringTables(std::span<const uint8_t> image) { add(image.data(), image.size()); }

    // Whether `text`, which libdwfl took from `elf`, is a string that ends within its table.
    bool holds(Elf *elf, const char *text) {
        if (std::find(seen_.begin(), seen_.end(), elf) == seen_.end())
            collect(elf);
        const auto *begin = reinterpret_cast<const uint8_t *>(text);
        return std::ranges::any_of(
            tables_, [&](const auto &table) { return begin >= table.data() && begin < table.data() + table.size(); });
    }

  private:
    // Adds a table up to the end of its last string.
    void add(const void *data, size_t size) {
        const auto *bytes = static_cast<const uint8_t *>(data);
        while (size > 0 && bytes[size - 1] != 0)
            size--;
        if (size > 0)
            tables_.push_back({bytes, size});
    }
    void collect(Elf *elf) {
        seen_.push_back(elf);
        for (Elf_Scn *section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
            GElf_Shdr header;
            if (!gelf_getshdr(section, &header) || (header.sh_type != SHT_SYMTAB && header.sh_type != SHT_DYNSYM))
                continue;
            Elf_Scn *strings = elf_getscn(elf, header.sh_link);
            // The same bytes as libdwfl's: libelf keeps one copy of a section.
            if (const Elf_Data *data = strings ? elf_getdata(strings, nullptr) : nullptr)
                if (data->d_buf)
                    add(data->d_buf, data->d_size);
        }
    }

    std::vector<std::span<const uint8_t>> tables_;
    std::vector<Elf *> seen_;
};

SymbolBinding binding_of(const GElf_Sym &symbol) {
    switch (GELF_ST_BIND(symbol.st_info)) {
    case STB_LOCAL:
        return SymbolBinding::kLocal;
    case STB_WEAK:
        return SymbolBinding::kWeak;
    default:
        return SymbolBinding::kGlobal;
    }
}

bool names_code(const GElf_Sym &symbol, GElf_Word section) {
    switch (GELF_ST_TYPE(symbol.st_info)) {
    case STT_SECTION:
    case STT_FILE:
    case STT_TLS:
    case STT_COMMON:
        return false;
    default:
        return section != SHN_UNDEF && section != SHN_ABS && section != SHN_COMMON;
    }
}

// The ends of an image's sections, by address. Of two sections that overlap, either may count.
class SectionEnds {
  public:
    explicit SectionEnds(Elf *elf) {
        for (Elf_Scn *section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
            GElf_Shdr header;
            if (gelf_getshdr(section, &header) && (header.sh_flags & SHF_ALLOC) && header.sh_size != 0)
                sections_.push_back({LinkAddr(header.sh_addr), LinkAddr(header.sh_addr + header.sh_size)});
        }
        std::ranges::sort(sections_, {}, &AddressRange::start);
    }
    // The end of the section that holds an address; the address itself if none does.
    LinkAddr of(LinkAddr address) const {
        const auto after = std::ranges::upper_bound(sections_, address, {}, &AddressRange::start);
        const bool inside = after != sections_.begin() && address < std::prev(after)->end;
        return inside ? std::prev(after)->end : address;
    }

  private:
    std::vector<AddressRange> sections_;
};

} // namespace

struct ModuleSymbols::ElfHandles {
    Elf *elf = nullptr; // ours until libdwfl asks for it
    Dwfl *dwfl = nullptr;
    Dwfl_Module *module = nullptr;
    Elf *module_elf = nullptr;

    ~ElfHandles() {
        if (dwfl)
            dwfl_end(dwfl);
        if (elf)
            elf_end(elf);
    }
};

ModuleSymbols::ModuleSymbols() : handles_(std::make_unique<ElfHandles>()) {}
ModuleSymbols::~ModuleSymbols() = default;

Result<std::unique_ptr<ModuleSymbols>> ModuleSymbols::open(const ByteSource &image, Budget &budget) {
    auto made = SymbolImage::make(image, budget);
    if (!made)
        return made.error();
    elf_version(EV_CURRENT);
    std::unique_ptr<ModuleSymbols> self(new ModuleSymbols);
    ElfHandles &handles = *self->handles_;
    self->image_ = std::move(*made);
    handles.elf = elf_memory(reinterpret_cast<char *>(self->image_.bytes.data()), self->image_.bytes.size());
    if (!handles.elf || elf_kind(handles.elf) != ELF_K_ELF)
        return Error{DWUNW_ERR_NOT_ELF};
    auto range = loaded_range(handles.elf);
    if (!range)
        return range.error();
    handles.dwfl = dwfl_begin(callbacks());
    if (!handles.dwfl)
        return Error{DWUNW_ERR_OUT_OF_MEMORY};
    dwfl_report_begin(handles.dwfl);
    handles.module = dwfl_report_module(handles.dwfl, "", range->start.value, range->end.value);
    if (dwfl_report_end(handles.dwfl, nullptr, nullptr) != 0 || !handles.module)
        return Error{DWUNW_ERR_OUT_OF_MEMORY};

    void **userdata = nullptr;
    dwfl_module_info(handles.module, &userdata, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
    *userdata = std::exchange(handles.elf, nullptr);
    GElf_Addr bias = 0;
    handles.module_elf = dwfl_module_getelf(handles.module, &bias);
    if (!handles.module_elf)
        return Error{DWUNW_ERR_ELF_MALFORMED};
    if (bias != 0)
        return Error{DWUNW_ERR_ELF_MALFORMED, bias};

    if (Status read = self->read_symbols(budget); !read)
        return read.error();
    return self;
}

Status ModuleSymbols::read_symbols(Budget &budget) {
    std::vector<SymbolRange> ranges;
    const int count = dwfl_module_getsymtab(handles_->module);
    if (count < 0 && has_symbol_table(handles_->module_elf))
        return Error{DWUNW_ERR_ELF_MALFORMED};

    const SectionEnds sections(handles_->module_elf);
    const auto add = [&](const GElf_Sym &symbol, LinkAddr address, const char *name) {
        const LinkAddr end_of_section = symbol.st_size == 0 ? sections.of(address) : address;
        ranges.push_back({address, symbol.st_size, end_of_section, binding_of(symbol)});
        symbols_.push_back({name, address, nullptr});
    };
    StringTables strings(image_.bytes);
    ranges.reserve(std::max(count, 0));
    symbols_.reserve(std::max(count, 0));
    bool has_table = false; // the image's own, or its debug file's, with more than .dynsym
    for (int i = 0; i < count; i++) {
        GElf_Sym symbol;
        GElf_Addr address = 0;
        GElf_Word section = SHN_UNDEF;
        Elf *elf = nullptr;
        const char *name = dwfl_module_getsym_info(handles_->module, i, &symbol, &address, &section, &elf, nullptr);
        has_table |= elf && elf != handles_->module_elf;
        if (name && names_code(symbol, section) && strings.holds(elf, name) && *name != '\0')
            add(symbol, LinkAddr(address), name);
    }
    if (!has_table && !image_.debugdata.empty()) {
        if (Status status = unpack_debugdata(budget); !status)
            return status;
        for (const MiniDebug::Symbol &each : mini_debug_symbols())
            if (names_code(each.symbol, each.symbol.st_shndx) && *each.name != '\0')
                add(each.symbol, LinkAddr(each.symbol.st_value), each.name);
    }
    // A table with local functions has every function, so a label's code reaches up to the next symbol. In a table
    // without them (.dynsym), a function that cannot be called by name may lie behind the label.
    if (std::ranges::none_of(ranges, [](const SymbolRange &range) { return range.binding == SymbolBinding::kLocal; }))
        for (SymbolRange &range : ranges)
            range.section_end = std::min(range.section_end, range.start + 1);
    image_.debugdata = {};
    index_ = SymbolIndex(ranges);
    return {};
}

std::span<const MiniDebug::Symbol> ModuleSymbols::mini_debug_symbols() const {
    return mini_debug_ ? std::span(mini_debug_->symbols()) : std::span<const MiniDebug::Symbol>();
}

// If it cannot be unpacked, it is left out, as in libdwfl. If it is too large, that is an error.
Status ModuleSymbols::unpack_debugdata(Budget &budget) {
    auto share = budget.take(elf::expanded_limit(image_.debugdata.size()));
    if (!share)
        return Error{DWUNW_ERR_LIMIT, image_.debugdata.size()};
    auto unpacked = MiniDebug::unpack(image_.debugdata);
    if (!unpacked)
        return unpacked.error().status == DWUNW_ERR_LIMIT ? Status(unpacked.error()) : Status();
    mini_debug_ = std::move(*unpacked);
    share.reset();
    if (auto kept = budget.take(mini_debug_->bytes()))
        mini_debug_share_ = std::move(*kept);
    return {};
}

Result<ModuleSymbols::Symbol> ModuleSymbols::find(LinkAddr address) {
    const std::optional<uint32_t> found = index_.find(address);
    if (!found)
        return Error{DWUNW_ERR_NOT_FOUND, address.value};
    Entry &entry = symbols_[*found];
    if (strnlen(entry.raw_name, kMaxName) == kMaxName)
        return Error{DWUNW_ERR_NOT_FOUND, address.value};
    if (!entry.name)
        entry.name = std::make_unique<std::string>(display_name(entry.raw_name));
    return Symbol{entry.name->c_str(), entry.raw_name, entry.start};
}

} // namespace dwunw
