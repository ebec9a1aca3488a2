// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Facts that only a function's file knows: its symbols, and the other ways into the function. The test plants each of
// these in a file that is otherwise the same.
#include "probe/function_file.h"

#include "support/cfi_bytes.h"
#include "support/elf_builder.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace {

using dwunw::FileOffset;
using dwunw::LinkAddr;
using dwunw::probe::EntryRange;
using dwunw::probe::FunctionFile;
using dwunw::testing::Bytes;
using dwunw::testing::ElfBuilder;

constexpr uint64_t kText = 0x10000;
constexpr uint64_t kFunction = 0x10100;
constexpr uint64_t kFunctionSize = 6; // test rdi, rdi; je +0; ret
constexpr uint64_t kProbe = 3;
constexpr uint64_t kOther = 0x10200;
constexpr uint64_t kGot = 0x30000;
constexpr uint64_t kExceptTable = 0x40000;
constexpr uint64_t kEhFrame = 0x50000;

class OwnedSource final : public dwunw::ByteSource {
  public:
    explicit OwnedSource(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}
    uint64_t size() const override { return bytes_.size(); }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
        return dwunw::MemorySource(bytes_).read(offset, buffer);
    }

  private:
    std::vector<uint8_t> bytes_;
};

// A file with one function, and what a test adds.
struct File {
    File() : text(0x400, 0x90) { put(kFunction, {0x48, 0x85, 0xff, 0x74, 0x00, 0xc3}); }

    void put(uint64_t address, std::initializer_list<int> code) {
        for (const int byte : code)
            text.at(address++ - kText) = static_cast<uint8_t>(byte);
    }
    // An opcode whose 32-bit displacement leads to `target`.
    void put_branch(uint64_t address, std::initializer_list<int> opcode, uint64_t target) {
        put(address, opcode);
        const auto distance = static_cast<uint32_t>(target - (address + opcode.size() + 4));
        for (unsigned i = 0; i < 4; ++i)
            text.at(address + opcode.size() + i - kText) = static_cast<uint8_t>(distance >> (8 * i));
    }
    void symbol(const char *name, uint64_t value, uint64_t size, int type = STT_FUNC, int binding = STB_GLOBAL) {
        Elf64_Sym entry{};
        entry.st_name = static_cast<uint32_t>(names.size());
        entry.st_info = static_cast<unsigned char>(ELF64_ST_INFO(binding, type));
        entry.st_shndx = 1;
        entry.st_value = value;
        entry.st_size = size;
        const std::string_view text_of(name);
        names.insert(names.end(), text_of.begin(), text_of.end());
        names.push_back(0);
        const auto *bytes = reinterpret_cast<const uint8_t *>(&entry);
        symbols.insert(symbols.end(), bytes, bytes + sizeof(entry));
    }
    std::vector<uint8_t> build() const {
        ElfBuilder builder;
        builder.header.e_machine = machine;
        builder.add({".text", text, kText, SHF_ALLOC | SHF_EXECINSTR})
            .add({".got", std::vector<uint8_t>(64), kGot})
            .add({dynamic ? ".dynsym" : ".symtab", symbols, 0, 0})
            .add({dynamic ? ".dynstr" : ".strtab", names, 0, 0});
        if (!versions.empty())
            builder.add({".gnu.version", versions, 0, 0});
        if (!except_table.empty())
            builder.add({".gcc_except_table", except_table, kExceptTable});
        if (!eh_frame.empty())
            builder.add({".eh_frame", eh_frame, kEhFrame});
        builder.add_segment(PT_LOAD, PF_R | PF_X, ".text").add_segment(PT_LOAD, PF_R | PF_W, ".got");
        return builder.build();
    }
    std::unique_ptr<FunctionFile> open() const {
        auto file = FunctionFile::open(std::make_unique<OwnedSource>(build()));
        EXPECT_TRUE(file.ok());
        return file ? std::move(*file) : nullptr;
    }

    std::vector<uint8_t> text;
    std::vector<uint8_t> symbols, names, versions, except_table, eh_frame;
    uint16_t machine = EM_X86_64;
    bool dynamic = false;
};

dwunw::probe::Placement place(const File &file, uint64_t size = kFunctionSize, uint32_t flags = 0,
                              uint64_t address = kFunction) {
    dwunw_probe_options options{};
    options.size = sizeof(options);
    options.flags = flags;
    options.kernel = 6 << 16 | 18 << 8;
    const auto placed = file.open()->place({LinkAddr(address), size}, options);
    EXPECT_TRUE(placed.ok());
    return placed ? placed->placement : dwunw::probe::Placement{};
}

TEST(FunctionFile, PlacesByAddressAndSaysWhereInTheFile) {
    const File file;
    dwunw_probe_options options{};
    options.kernel = 6 << 16 | 18 << 8;
    const auto placed = file.open()->place({LinkAddr(kFunction), kFunctionSize}, options);
    ASSERT_TRUE(placed.ok());
    EXPECT_EQ(placed->placement.offset, kProbe);
    EXPECT_EQ(placed->placement.why, DWUNW_PROBE_MOVED);
    const std::vector<uint8_t> bytes = file.build();
    EXPECT_EQ(bytes.at(placed->entry.value), 0x48);
    EXPECT_EQ(bytes.at(placed->entry.value + kProbe), 0x74);
}

TEST(FunctionFile, DisplacementsFromAnywhereThatLeadBehindTheEntry) {
    const std::initializer_list<int> opcodes[] = {
        {0xe8}, {0xe9}, {0x0f, 0x84}, {0xc7, 0xf8}, {0x48, 0x8d, 0x05} /* lea rax, [rip+…] */};
    for (const auto &opcode : opcodes) {
        for (const uint64_t from : {kText, kText + 1, kFunction - 20, kOther, kText + 0x3f0}) {
            for (uint64_t target = 0; target <= kProbe + 1; ++target) {
                File file;
                file.put_branch(from, opcode, kFunction + target);
                const bool inside = target > 0 && target <= kProbe;
                EXPECT_EQ(place(file).why, inside ? DWUNW_PROBE_OTHER_WAY_IN : DWUNW_PROBE_MOVED)
                    << from << " to " << target;
            }
        }
    }
}

// The search reads the code in pieces; a displacement may lie across two.
TEST(FunctionFile, DisplacementsAcrossThePiecesThatAreRead) {
    for (uint64_t at = (256 << 10) - 12; at < (256 << 10) + 12; ++at) {
        File file;
        file.text.resize(512 << 10, 0x90);
        file.put_branch(kText + at, {0xe9}, kFunction + kProbe);
        EXPECT_EQ(place(file).why, DWUNW_PROBE_OTHER_WAY_IN) << at;
    }
}

TEST(FunctionFile, SymbolsBehindTheEntry) {
    for (const int type : {STT_FUNC, STT_NOTYPE, STT_GNU_IFUNC}) {
        for (uint64_t at = 0; at <= kProbe + 1; ++at) {
            File file;
            file.symbol("inner", kFunction + at, 1, type, STB_LOCAL);
            const bool inside = at > 0 && at <= kProbe;
            EXPECT_EQ(place(file).why, inside ? DWUNW_PROBE_OTHER_WAY_IN : DWUNW_PROBE_MOVED) << at;
        }
    }
}

TEST(FunctionFile, JumpsThroughTheGotLeaveTheFunction) {
    File file;
    file.put_branch(kFunction + 5, {0xff, 0x25}, kGot + 8);
    EXPECT_EQ(place(file, 11).why, DWUNW_PROBE_MOVED);
    file.put_branch(kFunction + 5, {0xff, 0x25}, kGot + 60); // half beyond it
    EXPECT_EQ(place(file, 11).why, DWUNW_PROBE_CODE_UNCLEAR);
    file.put_branch(kFunction + 5, {0xff, 0x25}, kText); // memory, but not the .got's
    EXPECT_EQ(place(file, 11).why, DWUNW_PROBE_CODE_UNCLEAR);
}

TEST(FunctionFile, ReadsOfItsOwnDataArePassedOverOnRequest) {
    File file;
    const auto at = [&](uint64_t address) {
        file.put_branch(kFunction, {0x48, 0x8b, 0x05}, address); // mov rax, [rip+…]
        file.put(kFunction + 7, {0x55, 0x5d, 0xc3});
        return place(file, 10, DWUNW_PROBE_SKIP_MODULE_READS).offset;
    };
    EXPECT_EQ(at(kGot), 7U);
    EXPECT_EQ(at(kGot + 56), 7U);
    EXPECT_EQ(at(kGot + 57), 0U); // its last byte is beyond the segment
    EXPECT_EQ(at(kGot - 1), 0U);
    at(kGot);
    EXPECT_EQ(place(file, 10).why, DWUNW_PROBE_NOT_HARMLESS);
    // Written to: never.
    file.put(kFunction + 1, {0x89});
    EXPECT_EQ(place(file, 10, DWUNW_PROBE_SKIP_MODULE_READS).why, DWUNW_PROBE_NOT_HARMLESS);
}

// One CIE that has LSDA pointers, one FDE of `start`, and its call-site table with one pad at start + `pad`.
void add_landing_pad(File &file, uint64_t start, uint64_t pad, uint64_t lsda = kExceptTable) {
    using namespace dwunw::dwarf;
    Bytes cie;
    cie.u32(0).u8(1).text("zLR").uleb(1).sleb(-8).uleb(16).block(Bytes().u8(DW_EH_PE_absptr).u8(DW_EH_PE_absptr));
    Bytes section;
    section.u32(cie.size()).add(cie);
    Bytes fde;
    fde.u32(section.size() + 4).u64(start).u64(0x20).block(Bytes().u64(lsda));
    section.u32(fde.size()).add(fde).u32(0);
    file.eh_frame = section.data();

    Bytes sites;
    sites.uleb(0).uleb(1).uleb(0).uleb(0); // a call without a pad
    sites.uleb(1).uleb(1).uleb(pad).uleb(1);
    file.except_table = Bytes().u8(DW_EH_PE_omit).u8(DW_EH_PE_udata4).uleb(9).u8(DW_EH_PE_uleb128).block(sites).data();
}

TEST(FunctionFile, LandingPadsAreOtherWaysIn) {
    // Of the function itself, and of another whose table leads here.
    for (const uint64_t start : {kFunction, kFunction - 0x40}) {
        for (uint64_t at = 1; at <= kProbe + 1; ++at) {
            File file;
            add_landing_pad(file, start, kFunction + at - start);
            const auto placement = place(file);
            EXPECT_EQ(placement.why, at <= kProbe ? DWUNW_PROBE_OTHER_WAY_IN : DWUNW_PROBE_MOVED)
                << at << placement.reason;
        }
    }
}

TEST(FunctionFile, NoLandingPads) {
    File file;
    add_landing_pad(file, kFunction, 1, 0); // a null LSDA
    EXPECT_EQ(place(file).why, DWUNW_PROBE_MOVED);
}

TEST(FunctionFile, ExceptionTablesThatCannotBeReadCountAsPads) {
    File outside;
    add_landing_pad(outside, kFunction, 5, kExceptTable - 1);
    EXPECT_EQ(place(outside).why, DWUNW_PROBE_OTHER_WAY_IN);
    File whole;
    add_landing_pad(whole, kFunction, 5);
    EXPECT_EQ(place(whole).why, DWUNW_PROBE_MOVED);
    for (size_t length = whole.except_table.size(); --length > 0;) {
        File cut = whole;
        cut.except_table.resize(length);
        EXPECT_EQ(place(cut).why, DWUNW_PROBE_OTHER_WAY_IN) << length;
    }
}

TEST(FunctionFile, SizesThatAreNotKnown) {
    const File file;
    EXPECT_EQ(place(file, 0).why, DWUNW_PROBE_CODE_UNCLEAR);
    EXPECT_EQ(place(file, 0x400).why, DWUNW_PROBE_CODE_UNCLEAR); // beyond the segment
    EXPECT_EQ(place(file, ~uint64_t{0}).why, DWUNW_PROBE_CODE_UNCLEAR);
    EXPECT_EQ(place(file, 0, 0, kText + 0x3ff).why, DWUNW_PROBE_CODE_UNCLEAR); // the last byte
}

TEST(FunctionFile, AddressesThatAreNotCode) {
    dwunw_probe_options options{};
    for (const uint64_t address : {uint64_t{0}, kText - 1, kText + 0x400, kGot, ~uint64_t{0}}) {
        const auto placed = File().open()->place({LinkAddr(address), 4}, options);
        ASSERT_FALSE(placed.ok()) << address;
        EXPECT_EQ(placed.error().status, DWUNW_ERR_NO_MAPPING);
    }
}

TEST(FunctionFile, OtherMachinesAndOtherFiles) {
    File file;
    file.machine = EM_AARCH64;
    EXPECT_EQ(FunctionFile::open(std::make_unique<OwnedSource>(file.build())).error().status,
              DWUNW_ERR_UNSUPPORTED_ARCH);
    EXPECT_EQ(FunctionFile::open(std::make_unique<OwnedSource>(std::vector<uint8_t>(100))).error().status,
              DWUNW_ERR_NOT_ELF);
}

} // namespace
