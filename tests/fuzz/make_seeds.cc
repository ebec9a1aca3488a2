// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// make_seeds DIRECTORY: writes DIRECTORY/<target>/…, the first inputs of fuzzing. They are made from the distribution's
// files and with the unit tests' builders, in the layout that each target's file describes.
#include "core/layout.h"
#include "dwarf/cfi_program.h"
#include "elf/decompress.h"
#include "elf/image.h"
#include "process/file_source.h"
#include "support/cfi_bytes.h"
#include "support/elf_builder.h"
#include "support/xz.h"
#include "unwind/fde_list.h"

#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <stdexcept>

namespace dwunw {
namespace {

using namespace dwarf;
using testing::Bytes;
using testing::ElfBuilder;
using testing::FrameSection;
using enum testing::Reg;
using Data = std::vector<uint8_t>;

constexpr size_t kMaxSeedBytes = 48 << 10; // below -max_len
constexpr size_t kMaxPrograms = 200;

class Corpus {
  public:
    explicit Corpus(std::filesystem::path folder) : folder_(std::move(folder)) {
        std::filesystem::create_directories(folder_);
    }
    void add(const Data &bytes) {
        std::ofstream file(folder_ / ("seed-" + std::to_string(count_++)), std::ios::binary);
        file.write(reinterpret_cast<const char *>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        if (!file.flush())
            throw std::runtime_error("cannot write to " + folder_.string());
    }
    void add(const Bytes &bytes) { add(bytes.data()); }

  private:
    std::filesystem::path folder_;
    size_t count_ = 0;
};

Data read_file(const char *path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

Bytes plain(const Data &data) {
    Bytes bytes;
    bytes.data() = data;
    return bytes;
}

FrameSection usual_frames(bool debug_frame = false) {
    FrameSection section(debug_frame);
    const size_t cie = section.cie();
    section.fde(cie, 0x1000, 0x100, Bytes().advance(1).def_cfa_offset(16).offset(RBP, 2).advance(3).def_cfa(RBP, 16));
    section.fde(cie, 0x1100, 0x40, Bytes({DW_CFA_undefined, RIP}));
    section.fde(cie, 0x1200, 0x10, Bytes({DW_CFA_def_cfa_expression, 3, DW_OP_breg0 + 7, 0, DW_OP_deref}));
    if (!debug_frame)
        section.end();
    return section;
}

// Version 1, pcrel sdata4, udata4, datarel sdata4; one entry for each of `usual_frames`' first two FDEs.
Bytes usual_header(uint32_t section_distance) {
    Bytes header({1, 0x1b, 0x03, 0x3b});
    header.u32(section_distance - 4).u32(1);
    return header.u32(0x1000).u32(section_distance + 24);
}

Data compressed(elf::Compression method, const Data &bytes) {
    Data out;
    if (method == elf::Compression::kZlib) {
        uLongf size = compressBound(bytes.size());
        out.resize(size);
        if (compress(out.data(), &size, bytes.data(), bytes.size()) != Z_OK)
            throw std::runtime_error("zlib");
        out.resize(size);
    } else {
        out.resize(ZSTD_compressBound(bytes.size()));
        out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 1));
    }
    return out;
}

ElfBuilder::Section compressed_section(elf::Compression method, const Data &bytes) {
    Bytes header;
    header.u32(method == elf::Compression::kZlib ? ELFCOMPRESS_ZLIB : 2).u32(0).u64(bytes.size()).u64(1);
    return {".debug_frame", header.add(plain(compressed(method, bytes))).data(), 0, SHF_COMPRESSED};
}

// An image whose segments are all of the call-frame kind.
ElfBuilder image_builder() {
    ElfBuilder builder;
    builder.header.e_entry = 0x1000;
    builder.add({".text", Data(0x200, 0xcc), 0x1000, SHF_ALLOC | SHF_EXECINSTR});
    builder.add({".eh_frame_hdr", usual_header(20).data(), 0x3000});
    builder.add({".eh_frame", usual_frames().data(), 0x3014});
    builder.add(
        {".note.gnu.build-id", testing::note("GNU", NT_GNU_BUILD_ID, Data(20, 0xab)), 0x4000, SHF_ALLOC, SHT_NOTE});
    builder.add_segment(PT_LOAD, PF_R | PF_X, ".text");
    builder.add_segment(PT_LOAD, PF_R, ".eh_frame");
    builder.add_segment(PT_GNU_EH_FRAME, PF_R, ".eh_frame_hdr");
    builder.add_segment(PT_NOTE, PF_R, ".note.gnu.build-id");
    return builder;
}

void make_elf_images(const std::filesystem::path &folder) {
    Corpus corpus(folder / "elf_image");
    corpus.add(image_builder().build());
    ElfBuilder without_sections = image_builder();
    without_sections.with_section_headers = false;
    corpus.add(without_sections.build());
    for (const auto method : {elf::Compression::kZlib, elf::Compression::kZstd})
        corpus.add(image_builder().add(compressed_section(method, usual_frames(true).data())).build());
    Bytes old_form({'Z', 'L', 'I', 'B', 0, 0, 0, 0, 0, 0, 0});
    const Data frames = usual_frames(true).data();
    old_form.u8(frames.size()).add(plain(compressed(elf::Compression::kZlib, frames)));
    corpus.add(image_builder().add({".zdebug_frame", old_form.data(), 0, 0}).build());
    if (const Data program = read_file("/usr/bin/true"); !program.empty() && program.size() <= kMaxSeedBytes)
        corpus.add(program);
}

// A file with a symbol table, and one that has it packed in .gnu_debugdata.
void make_symbol_images(const std::filesystem::path &folder) {
    Corpus corpus(folder / "symbol_image");
    const auto with_table = [](uint32_t type) {
        ElfBuilder builder = image_builder();
        builder.add({".table", Data(48, 1), 0, 0, type, 6}).add({".strings", {0, 'f', 0}, 0, 0, SHT_STRTAB});
        return builder;
    };
    const Data file = with_table(SHT_SYMTAB).build();
    corpus.add(file);
    const Data packed = testing::xz_of(file);
    corpus.add(packed);
    corpus.add(with_table(SHT_DYNSYM).add({".gnu_debugdata", packed, 0, 0}).build());
    ElfBuilder without_sections = image_builder();
    without_sections.with_section_headers = false;
    corpus.add(without_sections.build());
}

Bytes section_input(bool debug_frame, LinkAddr address, const elf::Image *image, const Data &header,
                    const Data &section) {
    return Bytes({debug_frame})
        .u64(address.value)
        .u64(image != nullptr ? image->text_base().value : 0)
        .u64(image != nullptr ? image->data_base().value : 0)
        .u16(header.size())
        .add(plain(header))
        .add(plain(section));
}

void add_program(Corpus &corpus, const Fde &fde) {
    corpus.add(Bytes()
                   .u8(fde.cie.code_alignment)
                   .u8(static_cast<uint64_t>(fde.cie.data_alignment))
                   .u8(fde.cie.fde_encoding)
                   .u64(fde.start.value)
                   .u64(fde.end - fde.start)
                   .u8(fde.cie.instructions.size())
                   .add(plain({fde.cie.instructions.begin(), fde.cie.instructions.end()}))
                   .add(plain({fde.instructions.begin(), fde.instructions.end()})));
}

// The expressions of an FDE's rows.
class Expressions final : public RowVisitor {
  public:
    Expressions(std::span<const uint8_t> section, std::set<Data> &found) : section_(section), found_(found) {}
    bool row(LinkAddr, LinkAddr, const RowState &state) override {
        const auto add = [&](int64_t offset, uint32_t length) {
            const auto bytes = expression_bytes(section_, offset, length);
            if (length != 0)
                found_.emplace(bytes.begin(), bytes.end());
        };
        add(state.cfa.value, state.cfa.expression_length);
        for (const RegisterRule &rule : state.registers)
            add(rule.value, rule.expression_length);
        return true;
    }

  private:
    std::span<const uint8_t> section_;
    std::set<Data> &found_;
};

// What compilers and linkers wrote into a file: its sections if they are small, single programs, expressions.
void make_cfi(const std::filesystem::path &folder) {
    Corpus sections(folder / "cfi_section");
    Corpus programs(folder / "cfi_program");
    Corpus expressions(folder / "expression");
    for (const bool debug_frame : {false, true})
        sections.add(section_input(debug_frame, LinkAddr(0x3014), nullptr,
                                   debug_frame ? Data() : usual_header(20).data(), usual_frames(debug_frame).data()));
    std::set<Data> found = {
        // A lazy PLT entry's CFA, and *(rsp+24)−8.
        {testing::breg(RSP), 8, testing::breg(RIP), 0, 0x3f, DW_OP_and, 0x3b, DW_OP_ge, 0x33, DW_OP_shl, DW_OP_plus},
        {testing::breg(RSP), 24, DW_OP_deref, DW_OP_plus_uconst, 8},
        {DW_OP_const4s, 1, 2, 3, 4, DW_OP_dup, DW_OP_rot, DW_OP_skip, 0xfc, 0xff},
    };
    Dl_info libc{};
    ::dladdr(reinterpret_cast<void *>(&::gnu_get_libc_version), &libc);
    std::set<Data> seen;
    for (const char *path : {"/usr/bin/true", libc.dli_fname}) {
        auto source = path != nullptr ? process::FileSource::open(path) : Error{DWUNW_ERR_NO_FILE};
        const auto image = source ? elf::Image::parse(*source) : source.error();
        const auto read = image ? image->read_eh_frame(*source) : image.error();
        if (!read || !*read)
            continue;
        const SectionBytes &bytes = **read;
        const auto header = image->open_eh_frame_hdr(std::make_shared<const process::FileSource>(std::move(*source)));
        const auto header_bytes = header ? header->load(0, header->size()) : Error{DWUNW_ERR_NO_CFI};
        if (bytes.bytes.size() <= kMaxSeedBytes && header_bytes)
            sections.add(section_input(false, bytes.address, &*image, Data(header_bytes->begin(), header_bytes->end()),
                                       bytes.bytes));
        const CfiSection section(SectionKind::kEhFrame, bytes.bytes, bytes.address, image->text_base(),
                                 image->data_base());
        const unwind::FdeList index(std::span(&section, 1));
        for (const unwind::FdeRef &ref : index.fdes()) {
            const auto fde = section.fde_at(ref.offset);
            if (!fde)
                continue;
            Expressions finder(bytes.bytes, found);
            (void)run_cfi_program(*fde, finder);
            const Data instructions(fde->instructions.begin(), fde->instructions.end());
            if (seen.size() < kMaxPrograms && seen.insert(instructions).second)
                add_program(programs, *fde);
        }
    }
    for (const Data &expression : found)
        for (const int with_initial : {0, 1})
            expressions.add(Bytes({with_initial}).u64(0x1234).add(plain(expression)));
}

// hostile_cfi.h's input: three functions, at 0x1000, 0x1131 and 0x11b2.
Bytes functions() {
    Bytes bytes({3});
    bytes.u8(0).u16(0).u16(0x100).add({0x01, 4, 0x04, 16, 0x66, 2, 0});              // push %rbp, after four bytes
    bytes.u8(8).u16(0x30).u16(0x80).add({0x09, 0x01, 2, 0x63, 2, 0x01, 1, 0x0a, 0}); // remember, CFA = rbp+16, restore
    return bytes.u8(1).u16(0).u16(0x40).add({0x7c, 8, 0x6d, 3, 16, 0});              // expressions
}

void make_tables_and_walks(const std::filesystem::path &folder) {
    Corpus tables(folder / "table");
    tables.add(Bytes(functions()).u16(0x10).u16(0x101).u16(0x131));
    tables.add(Bytes({1, 0}).u16(0).u16(0x10).u8(0));
    Corpus lost_sp(folder / "lost_sp");
    // mov %rsp,%rdx; je; mov 0x38(%rsi),%rsp; push; call *%rax; pop; mov %rsi,%rsp; ret; and $-16,%rsp; call *%rax; jmp
    const Bytes switches({0x48, 0x89, 0xe2, 0x74, 0x0c, 0x48, 0x8b, 0x66, 0x38, 0x50, 0xff, 0xd0, 0x58,
                          0x48, 0x89, 0xf4, 0xc3, 0x48, 0x83, 0xe4, 0xf0, 0xff, 0xd0, 0xeb, 0xe8});
    for (const Bytes &rows : {Bytes({0, 1, 1, 0}), Bytes({2, 1, 1, 8, 1, 2, 3, 0, 0, 0}), Bytes({1, 1, 1, 8, 0, 0, 0})})
        lost_sp.add(Bytes(rows).u16(switches.size()).add(switches).add(functions()));
    Corpus walks(folder / "walk");
    for (const int flags : {0, 1, 2}) {
        Bytes walk({flags, 16, 9, 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05}); // a signal trampoline's code
        walk.add(functions());
        for (int reg = 0; reg < 17; ++reg)
            walk.u8(reg == RIP ? 0 : 3).u16(reg == RIP ? 0x1005 : 0x80);
        // Pairs of a saved rbp and a return address; one in four is into the function whose CFA is rbp's.
        for (int word = 0; word < 96; word += 2) {
            walk.u8(3).u16(8 * (word + 2));
            walk.u8(0).u16(word % 8 == 6 ? 0x1134 : 0x1006 + word);
        }
        walks.add(walk);
    }
}

void make_maps(const std::filesystem::path &folder) {
    Corpus corpus(folder / "maps");
    corpus.add(read_file("/proc/self/maps"));
    for (const char *text : {"55d4b2a00000-55d4b2a01000 r--p 00000000 fe:00 332383        /usr/bin/some thing\n",
                             "7f0000000000-7f0000001000 rwxs 00001000 00:01 7    /memfd:jit\\012x (deleted)\n",
                             "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0      [stack]\n"
                             "7ffd00022000-7ffd00024000 r-xp 00000000 00:00 0      [vdso]\n",
                             "7fffffffe000-7ffffffff000 --xp 00000000 00:00 0      [uprobes]\n"})
        corpus.add(Data(text, text + std::strlen(text)));
}

template <typename T> Data bytes_of(const T &value) {
    const auto *bytes = reinterpret_cast<const uint8_t *>(&value);
    return {bytes, bytes + sizeof(value)};
}

// A core of a process that maps image_builder()'s file, with its bytes or without, and stands in its text.
Data core(bool with_module_bytes) {
    constexpr uint64_t kBase = 0x400000;
    constexpr uint64_t kStack = 0x7ff000;
    core::CorePrStatus status{};
    status.tid = 42;
    status.registers[16] = kBase + 0x1000; // rip
    status.registers[19] = kStack;         // rsp
    core::CorePrPsInfo info{};
    info.pid = 42;
    info.name = {'s', 'e', 'e', 'd'};
    const Data image = image_builder().build();
    Data notes = testing::note("CORE", NT_PRSTATUS, bytes_of(status));
    const auto add = [&](uint32_t type, const Data &description) {
        const Data note = testing::note("CORE", type, description);
        notes.insert(notes.end(), note.begin(), note.end());
    };
    add(NT_PRPSINFO, bytes_of(info));
    add(NT_AUXV, Bytes().u64(AT_SYSINFO_EHDR).u64(0x500000).u64(AT_NULL).u64(0).data());
    add(NT_FILE, Bytes().u64(1).u64(4096).u64(kBase).u64(kBase + 0x2000).u64(0).text("/no/such/program").data());

    ElfBuilder builder;
    builder.header.e_type = ET_CORE;
    builder.with_section_headers = false;
    builder.add({"notes", notes}).add_segment(PT_NOTE, 0, "notes");
    builder.add({"text", with_module_bytes ? image : Data(64), kBase}).add_segment(PT_LOAD, PF_R | PF_X, "text");
    builder.add({"vdso", image, 0x500000}).add_segment(PT_LOAD, PF_R | PF_X, "vdso");
    builder.add({"stack", Data(256, 0x40), kStack}).add_segment(PT_LOAD, PF_R | PF_W, "stack");
    return builder.build();
}

void make_all(const std::filesystem::path &folder) {
    make_elf_images(folder);
    make_symbol_images(folder);
    make_cfi(folder);
    make_tables_and_walks(folder);
    make_maps(folder);
    Corpus cores(folder / "core_file");
    cores.add(core(true));
    cores.add(core(false));
}

} // namespace
} // namespace dwunw

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: make_seeds DIRECTORY\n");
        return 2;
    }
    try {
        dwunw::make_all(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "make_seeds: %s\n", error.what());
        return 1;
    }
    return 0;
}
