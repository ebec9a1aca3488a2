// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One Dwfl session a module, which reports the module at its own link addresses, so that every address here is one.
#include "symbolize/module_symbols.h"

#include "symbolize/demangle.h"

#include <elfutils/libdwfl.h>
#include <gelf.h>
#include <libelf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

namespace dwunw {
namespace {

constexpr size_t kMaxName = 64 * 1024;          // a symbol with a longer name is left out
constexpr uint64_t kMaxTableBytes = 1ull << 30; // of all symbol and string tables of one image

// Gives libdwfl the Elf that was opened beforehand; without a descriptor, so that libdwfl has none to close or to map.
int find_elf(Dwfl_Module *, void **userdata, const char *, Dwarf_Addr, char **, Elf **elf) {
    *elf = static_cast<Elf *>(std::exchange(*userdata, nullptr));
    return -1;
}

// By build-id only: names and paths in the target's file are not to choose what is opened.
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

// Where the image lies. The start is computed as libdwfl does it (the first PT_LOAD's page), so that its bias is 0.
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

// Whether libdwfl should have found symbols: what tells a stripped image from one whose tables cannot be read.
bool has_symbol_table(Elf *elf) {
    for (Elf_Scn *section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
        GElf_Shdr header;
        if (gelf_getshdr(section, &header) && (header.sh_type == SHT_SYMTAB || header.sh_type == SHT_DYNSYM))
            return true;
    }
    return false;
}

// libelf and libdwfl load whole tables; a sparse file may declare any size for them.
Status check_table_sizes(Elf *elf) {
    uint64_t total = 0;
    for (Elf_Scn *section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
        GElf_Shdr header;
        if (!gelf_getshdr(section, &header))
            return Error{DWUNW_ERR_ELF_MALFORMED};
        switch (header.sh_type) {
        case SHT_SYMTAB:
        case SHT_DYNSYM:
        case SHT_STRTAB:
            // Allowed by the gABI and never seen: what it expands to would be unbounded.
            if (header.sh_flags & SHF_COMPRESSED)
                return Error{DWUNW_ERR_ELF_MALFORMED, header.sh_offset};
            if (header.sh_size > kMaxTableBytes - total)
                return Error{DWUNW_ERR_LIMIT, header.sh_size};
            total += header.sh_size;
            break;
        default:
            break;
        }
    }
    return {};
}

// libdwfl returns names as pointers into string tables, checked to begin inside them and not to end there. This says
// which bytes a string may occupy.
class StringTables {
  public:
    explicit StringTables(std::span<const uint8_t> image) { add(image.data(), image.size()); }

    // Whether `text`, which libdwfl took from `elf`, is a string that ends within its table and kMaxName.
    bool holds(Elf *elf, const char *text) {
        if (std::find(seen_.begin(), seen_.end(), elf) == seen_.end())
            collect(elf);
        const auto *begin = reinterpret_cast<const uint8_t *>(text);
        for (const auto &table : tables_) {
            if (begin >= table.data() && begin < table.data() + table.size()) {
                const size_t room = table.data() + table.size() - begin;
                return std::memchr(begin, 0, std::min(room, kMaxName)) != nullptr;
            }
        }
        return false;
    }

  private:
    void add(const void *data, size_t size) {
        if (data && size)
            tables_.push_back({static_cast<const uint8_t *>(data), size});
    }
    void collect(Elf *elf) {
        seen_.push_back(elf);
        for (Elf_Scn *section = nullptr; (section = elf_nextscn(elf, section)) != nullptr;) {
            GElf_Shdr header;
            if (!gelf_getshdr(section, &header) || (header.sh_type != SHT_SYMTAB && header.sh_type != SHT_DYNSYM))
                continue;
            Elf_Scn *strings = elf_getscn(elf, header.sh_link);
            // The same bytes that libdwfl got: libelf keeps one copy of a section.
            if (const Elf_Data *data = strings ? elf_getdata(strings, nullptr) : nullptr)
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

// Where the section that a symbol is defined in ends, in the module's addresses; the symbol's own where it has none.
LinkAddr section_end(Elf *elf, GElf_Word section, const GElf_Sym &symbol, GElf_Addr address) {
    Elf_Scn *scn = elf_getscn(elf, section);
    GElf_Shdr header;
    // st_value may have been adjusted as `address` was; the distance to the section's end is the same in both.
    if (!scn || !gelf_getshdr(scn, &header) || symbol.st_value < header.sh_addr ||
        symbol.st_value - header.sh_addr >= header.sh_size)
        return LinkAddr(address);
    return LinkAddr(address + (header.sh_size - (symbol.st_value - header.sh_addr)));
}

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

Result<std::unique_ptr<ModuleSymbols>> ModuleSymbols::open(int fd, const ByteSource &image) {
    elf_version(EV_CURRENT);
    std::unique_ptr<ModuleSymbols> self(new ModuleSymbols);
    ElfHandles &handles = *self->handles_;

    size_t section_count = 0;
    if (fd >= 0) {
        handles.elf = elf_begin(fd, ELF_C_READ, nullptr);
        if (!handles.elf || elf_kind(handles.elf) != ELF_K_ELF)
            return Error{DWUNW_ERR_NOT_ELF};
        if (elf_getshdrnum(handles.elf, &section_count) != 0)
            return Error{DWUNW_ERR_ELF_MALFORMED};
    }
    if (section_count == 0) {
        if (image.size() > kMaxCopiedImage)
            return Error{DWUNW_ERR_LIMIT, image.size()};
        self->copy_.resize(image.size());
        if (!image.read_exactly(FileOffset(0), self->copy_))
            return Error{DWUNW_ERR_IO};
        if (handles.elf)
            elf_end(handles.elf);
        handles.elf = elf_memory(reinterpret_cast<char *>(self->copy_.data()), self->copy_.size());
        if (!handles.elf || elf_kind(handles.elf) != ELF_K_ELF)
            return Error{DWUNW_ERR_NOT_ELF};
    }

    if (Status sizes = check_table_sizes(handles.elf); !sizes)
        return sizes.error();
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

    if (Status read = self->read_symbols(); !read)
        return read.error();
    return self;
}

Status ModuleSymbols::read_symbols() {
    const int count = dwfl_module_getsymtab(handles_->module);
    if (count < 0) {
        if (has_symbol_table(handles_->module_elf))
            return Error{DWUNW_ERR_ELF_MALFORMED};
        return {};
    }

    StringTables strings(copy_);
    std::vector<SymbolRange> ranges;
    ranges.reserve(count);
    symbols_.reserve(count);
    for (int i = 0; i < count; i++) {
        GElf_Sym symbol;
        GElf_Addr address = 0;
        GElf_Word section = SHN_UNDEF;
        Elf *elf = nullptr;
        const char *name = dwfl_module_getsym_info(handles_->module, i, &symbol, &address, &section, &elf, nullptr);
        if (!name || !names_code(symbol, section) || !strings.holds(elf, name) || *name == '\0')
            continue;
        const LinkAddr end_of_section =
            symbol.st_size == 0 ? section_end(elf, section, symbol, address) : LinkAddr(address);
        ranges.push_back({LinkAddr(address), symbol.st_size, end_of_section, binding_of(symbol)});
        symbols_.push_back({name, LinkAddr(address), nullptr});
    }
    index_ = SymbolIndex(ranges);
    return {};
}

Result<ModuleSymbols::Symbol> ModuleSymbols::find(LinkAddr address) {
    const std::optional<uint32_t> found = index_.find(address);
    if (!found)
        return Error{DWUNW_ERR_NOT_FOUND, address.value};
    Entry &entry = symbols_[*found];
    if (!entry.name)
        entry.name = std::make_unique<std::string>(display_name(entry.raw_name));
    return Symbol{entry.name->c_str(), entry.raw_name, entry.start};
}

} // namespace dwunw
