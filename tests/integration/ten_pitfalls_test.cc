// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Ten typical errors of unwinders, each by its name, through the public interface:
//
//    1 Pc1         a return address is looked up one byte before; any other pc is not
//    2 Drap        CFAs that are read from memory
//    3 Signals     the frame of a signal, on another stack
//    4 Uretprobes  trampolines in place of return addresses
//    5 Ends, Gaps  where a stack ends, and where there are no rules
//    6 Files       how a file gets into memory (ten_pitfalls_files_test.cc)
//    7 Truncation  a short stack is never called complete
//    8 Capacity    more than any small counter holds (capacity_test.cc has the large numbers)
//    9 Hostile     false call-frame information
//   10 Races       facts that were true a moment ago (ten_pitfalls_files_test.cc)
//
// Stacks here are made by hand, so that each shows one case; single_step_test walks real ones of each kind.
#include <dwunw/table.h>

#include "support/reference_cfi.h"
#include "synthetic_process.h"

#include <random>

namespace {

using namespace dwunw::dwarf;
using dwunw::testing::Bytes;
using dwunw::testing::SyntheticModule;
using enum dwunw::testing::Reg;
using Pcs = std::vector<uint64_t>;

// Functions of the module; it is mapped at kText.
constexpr uint64_t kText = 0x400000;
constexpr uint64_t at(uint64_t function, uint64_t offset = 0) {
    return kText + function - SyntheticModule::kTextOffset + offset;
}
enum Function : uint64_t {
    kSmall = 0x1000,   // CFA = rsp+8
    kLarge = 0x1100,   // CFA = rsp+32, and directly behind kSmall
    kRoot = 0x1200,    // the return address is undefined
    kDrap = 0x1300,    // CFA = *(rbp-8), rbp saved at rbp
    kGlibcs = 0x1400,  // a signal trampoline with rules
    kMusls = 0x1500,   // one without
    kNoRules = 0x1600, // and nothing around it
    kStuck = 0x1700,   // CFA = rsp
    kLoop = 0x1800,    // CFA = *(rsp)
    kMalformed = 0x1900,
};

class TenPitfalls : public dwunw::testing::SyntheticProcess {
  protected:
    TenPitfalls() {
        SyntheticModule module;
        module.function(kSmall, 0x100, 8).function(kLarge, 0x100, 32);
        module.function(kRoot, 0x100, Bytes({DW_CFA_undefined, RIP}));
        module.function(kDrap, 0x100,
                        Bytes({DW_CFA_def_cfa_expression, 3, DW_OP_breg0 + 6, 0x78, DW_OP_deref})
                            .add({DW_CFA_expression, RBP, 2, DW_OP_breg0 + 6, 0}));
        module.function(kStuck, 0x100, 0);
        module.function(kLoop, 0x100, Bytes({DW_CFA_def_cfa_expression, 3, DW_OP_breg0 + 7, 0, DW_OP_deref}));
        module.function(kMalformed, 0x100, Bytes({0x3f}));
        const size_t signal = module.frames().cie(dwunw::testing::usual_cie_instructions(), "zRS");
        module.frames().fde(signal, kGlibcs - 1, 0x10,
                            Bytes({DW_CFA_def_cfa_expression, 4, DW_OP_breg0 + 7, 0xa0, 1, DW_OP_deref})
                                .add({DW_CFA_expression, RIP, 3, DW_OP_breg0 + 7, 0xa8, 1})
                                .add({DW_CFA_expression, RBP, 3, DW_OP_breg0 + 7, 0xf8, 0})
                                .add({DW_CFA_expression, RSP, 3, DW_OP_breg0 + 7, 0xa0, 1}));
        module.frames().fde(module.cie(), 0, 0x100, Bytes().def_cfa_offset(64)); // discarded by the linker
        for (const uint64_t trampoline : {kGlibcs, kMusls})
            module.code(trampoline, {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05});
        for (const uint64_t function : {kSmall, kLarge, kRoot, kDrap, kLoop})
            module.call_before(function + 0x20);
        module.call_before(kLarge); // kSmall's last instruction
        map_module(module, kText);
        map_other("[uprobes]", kUprobes, 0x1000);
    }
    static constexpr uint64_t kUprobes = 0x7fffffffe000;

    // A handler's frame at kSp, the trampoline that it returns to, and the registers that the kernel saved above.
    void interrupt(uint64_t trampoline, uint64_t pc, uint64_t sp) {
        set(kSp, trampoline);
        set(kSp + 8 + 160, sp);
        set(kSp + 8 + 168, pc);
    }
};

// 1. pc − 1

TEST_F(TenPitfalls, Pc1NoreturnCallAtAFunctionsEnd) {
    // Small calls from its last instruction: the return address is Large's first byte.
    set(kSp, at(kLarge));
    set(kSp + 8, at(kRoot, 0x20));
    EXPECT_EQ(walk(at(kSmall, 4)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kSmall, 4), at(kLarge), at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[1].flags & DWUNW_FRAME_FLAG_EXACT_PC, 0u);
}

TEST_F(TenPitfalls, Pc1AProbeAtAFunctionsFirstByte) {
    set(kSp + 24, at(kRoot, 0x20));
    EXPECT_EQ(walk(at(kLarge)), DWUNW_OK); // by Large's rule
    EXPECT_EQ(pcs(), (Pcs{at(kLarge), at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[0].flags & DWUNW_FRAME_FLAG_EXACT_PC, DWUNW_FRAME_FLAG_EXACT_PC);
}

TEST_F(TenPitfalls, Pc1AFaultAtAFunctionsFirstByte) {
    for (const Function trampoline : {kGlibcs, kMusls}) {
        interrupt(at(trampoline), at(kLarge), kSp + 400);
        set(kSp + 400 + 24, at(kRoot, 0x20));
        EXPECT_EQ(walk(at(kSmall, 4)), DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kSmall, 4), at(trampoline), at(kLarge), at(kRoot, 0x20)}));
        EXPECT_EQ(frames_[2].flags & DWUNW_FRAME_FLAG_EXACT_PC, DWUNW_FRAME_FLAG_EXACT_PC);
    }
}

// 2. DRAP and other CFAs in memory. Real ones: SingleStep, gcc_avx2_frames and gcc_resolver.

TEST_F(TenPitfalls, DrapTheCfaIsInMemory) {
    const uint64_t rbp = kSp + 64;
    set(rbp - 8, kSp + 256);
    set(rbp, 0x1234);
    set(kSp + 256 - 8, at(kSmall, 0x20));
    set(kSp + 256, at(kRoot, 0x20));
    EXPECT_EQ(walk(at(kDrap, 4), SIZE_MAX, rbp), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kDrap, 4), at(kSmall, 0x20), at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[1].sp, kSp + 256);
}

TEST_F(TenPitfalls, DrapMemoryThatIsNotThere) {
    EXPECT_EQ(walk(at(kDrap, 4), SIZE_MAX, kStack + 0x100000), DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(pcs(), (Pcs{at(kDrap, 4)}));
}

// 3. Signals. Real ones, nested and on another stack, glibc's and musl's: SingleStep.

TEST_F(TenPitfalls, SignalsGlibcAndMusl) {
    for (const Function trampoline : {kGlibcs, kMusls}) {
        interrupt(at(trampoline), at(kLarge, 8), kSp + 400);
        set(kSp + 400 + 24, at(kRoot, 0x20));
        EXPECT_EQ(walk(at(kSmall)), DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kSmall), at(trampoline), at(kLarge, 8), at(kRoot, 0x20)}));
        EXPECT_EQ(frames_[1].flags & DWUNW_FRAME_FLAG_SIGNAL, DWUNW_FRAME_FLAG_SIGNAL);
        EXPECT_EQ(frames_[2].source, uint32_t{DWUNW_SOURCE_SIGNAL});
    }
}

TEST_F(TenPitfalls, SignalsOnAnotherStackJumpDownAsWellAsUp) {
    // What was interrupted is below the handler's stack.
    for (const Function trampoline : {kGlibcs, kMusls}) {
        interrupt(at(trampoline), at(kLarge, 8), kStack);
        set(kStack + 24, at(kRoot, 0x20));
        EXPECT_EQ(walk(at(kSmall)), DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kSmall), at(trampoline), at(kLarge, 8), at(kRoot, 0x20)}));
        EXPECT_EQ(frames_[2].sp, kStack);
    }
    // And where the slice does not hold it, the walk says so.
    interrupt(at(kGlibcs), at(kLarge, 8), kStack - 0x10000);
    EXPECT_EQ(walk(at(kSmall)), DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(pcs(), (Pcs{at(kSmall), at(kGlibcs), at(kLarge, 8)}));
}

// 4. Uretprobes

TEST_F(TenPitfalls, UretprobesNestedAndTailCalled) {
    set(kSp, kUprobes);
    set(kSp + 8 + 24, kUprobes);
    set(kSp + 8 + 32, at(kRoot, 0x20));
    // Two probed functions that share a slot, by a tail call: the kernel gives both the same original.
    pending_ = {{kSp + 32, at(kSmall, 0x20)}, {kSp, at(kLarge, 0x20)}, {kSp, at(kLarge, 0x20)}};
    EXPECT_EQ(walk(at(kSmall)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kSmall), at(kLarge, 0x20), at(kSmall, 0x20), at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[1].source, uint32_t{DWUNW_SOURCE_TRAMPOLINE});
    EXPECT_EQ(frames_[2].source, uint32_t{DWUNW_SOURCE_TRAMPOLINE});
    // One that the request does not name: the frames up to it.
    pending_ = {{kSp, at(kLarge, 0x20)}};
    EXPECT_EQ(walk(at(kSmall)), DWUNW_ERR_UPROBE_TRAMPOLINE);
    EXPECT_EQ(pcs(), (Pcs{at(kSmall), at(kLarge, 0x20)}));
}

// 5. Ends and gaps. clone3 and thread starts: SingleStep, gcc_threads.

TEST_F(TenPitfalls, EndsZeroAndUndefined) {
    set(kSp, 0);
    EXPECT_EQ(walk(at(kSmall)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kSmall)}));
    EXPECT_EQ(walk(at(kRoot)), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kRoot)}));
}

TEST_F(TenPitfalls, GapsHaveNoRules) {
    set(kSp, at(kRoot, 0x20));
    EXPECT_EQ(walk(at(kGlibcs, 0x0f)), DWUNW_ERR_NO_CFI); // just past an FDE
    EXPECT_EQ(walk(at(kNoRules)), DWUNW_ERR_NO_CFI);
    EXPECT_EQ(walk(kText + 0x1000), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(pcs(), (Pcs{kText + 0x1000}));
}

// Every address of libc's text that no FDE covers is a gap, and every FDE's first and last byte is none. The FDEs are
// the reference interpreter's.
TEST_F(TenPitfalls, GapsEveryAddressOutsideLibcsFdes) {
    const std::string path = "/lib/x86_64-linux-gnu/libc.so.6";
    const std::string file = dwunw::testing::read_file(path);
    ASSERT_GT(file.size(), sizeof(Elf64_Ehdr));
    Elf64_Ehdr header;
    std::memcpy(&header, file.data(), sizeof(header));
    std::vector<Elf64_Shdr> sections(header.e_shnum);
    std::memcpy(sections.data(), file.data() + header.e_shoff, sections.size() * sizeof(Elf64_Shdr));
    std::vector<dwunw::reference::Fde> fdes;
    uint64_t start = UINT64_MAX, end = 0;
    for (const Elf64_Shdr &section : sections) {
        const std::string name = file.c_str() + sections[header.e_shstrndx].sh_offset + section.sh_name;
        const auto *bytes = reinterpret_cast<const uint8_t *>(file.data()) + section.sh_offset;
        if (name == ".eh_frame")
            fdes = dwunw::reference::read_eh_frame({bytes, bytes + section.sh_size}, section.sh_addr);
        if ((section.sh_flags & SHF_EXECINSTR) != 0) {
            start = std::min(start, section.sh_addr);
            end = std::max(end, section.sh_addr + section.sh_size);
        }
    }
    ASSERT_GT(fdes.size(), 1000u);
    std::vector<bool> covered(end - start);
    for (const auto &fde : fdes)
        for (uint64_t pc = fde.start; pc < fde.end; ++pc)
            covered.at(pc - start) = true;

    dwunw_table *table = nullptr;
    ASSERT_EQ(dwunw_table_open(context_, path.c_str(), &table), DWUNW_OK);
    size_t gaps = 0, wrong = 0;
    dwunw_row row{};
    row.size = sizeof(row);
    for (uint64_t pc = start; pc < end; ++pc) {
        const bool found = dwunw_table_lookup(table, pc, &row) == DWUNW_OK;
        wrong += found != covered[pc - start] || (found && (pc < row.start || pc >= row.end));
        gaps += !found;
    }
    for (const uint64_t pc : {uint64_t{0}, start - 1, end, UINT64_MAX})
        EXPECT_EQ(dwunw_table_lookup(table, pc, &row), DWUNW_ERR_NOT_FOUND) << pc;
    dwunw_table_close(table);
    EXPECT_EQ(wrong, 0u);
    EXPECT_GT(gaps, 10'000u);
}

// 7. Truncation. Real stacks, cut at every word: SingleStep.

TEST_F(TenPitfalls, TruncationAtEveryWord) {
    set(kSp, at(kLarge, 0x20));
    set(kSp + 8 + 24, at(kLarge, 0x20));
    set(kSp + 40 + 24, at(kSmall, 0x20));
    set(kSp + 72, at(kRoot, 0x20));
    ASSERT_EQ(walk(at(kSmall)), DWUNW_OK);
    const Pcs whole = pcs();
    ASSERT_EQ(whole.size(), 5u);
    constexpr size_t kNeeded = DWUNW_RED_ZONE + 80;
    for (size_t bytes = 0; bytes <= kNeeded + 16; bytes += 8) {
        EXPECT_EQ(walk(at(kSmall), bytes), bytes < kNeeded ? DWUNW_ERR_SLICE_EXHAUSTED : DWUNW_OK) << bytes;
        ASSERT_LE(frames_.size(), whole.size());
        EXPECT_TRUE(std::equal(frames_.begin(), frames_.end(), whole.begin(),
                               [](const dwunw_frame &frame, uint64_t pc) { return frame.pc == pc; }))
            << bytes;
        EXPECT_EQ(frames_.size() == whole.size(), bytes >= kNeeded) << bytes;
    }
}

// 8. Capacity

TEST_F(TenPitfalls, CapacityMoreRulesThanAByteCounts) {
    SyntheticModule module(SyntheticModule::kTextOffset, 0x10000);
    for (uint64_t i = 0; i < 1000; ++i)
        module.function(0x1000 + i * 16, 16, 8 + i * 8);
    constexpr uint64_t kStart = 0x900000;
    map_module(module, kStart);
    for (uint64_t i = 0; i < 1000; ++i) {
        walk(kStart + i * 16 + i % 16);
        EXPECT_EQ(frames_[0].cfa, kSp + 8 + i * 8) << i;
    }
}

// 9. Hostile files. More: fuzzing, and every row beside readelf's (table_readelf).

TEST_F(TenPitfalls, HostileRulesThatLeadNowhere) {
    EXPECT_EQ(walk(at(kStuck)), DWUNW_ERR_NO_PROGRESS);
    EXPECT_EQ(walk(at(kMalformed)), DWUNW_ERR_CFI_MALFORMED);
    // A frame that is its own caller.
    set(kSp, kSp + 8);
    set(kSp - 8, at(kLoop, 0x20));
    set(kSp + 8, kSp + 8);
    const dwunw_status status = walk(at(kLoop));
    EXPECT_TRUE(status == DWUNW_ERR_NO_PROGRESS || status == DWUNW_ERR_FRAME_LIMIT ||
                status == DWUNW_ERR_SLICE_EXHAUSTED || status == DWUNW_ERR_NO_MAPPING)
        << dwunw_status_string(status);
    // Where a return address leads out of the code, nothing is made up.
    set(kSp, 0x123456789);
    EXPECT_EQ(walk(at(kSmall)), DWUNW_ERR_NO_MAPPING);
    EXPECT_EQ(pcs(), (Pcs{at(kSmall)}));
}

TEST_F(TenPitfalls, HostileFilesEndInTypedErrors) {
    SyntheticModule module;
    for (uint64_t i = 0; i < 64; ++i)
        module.function(0x1000 + i * 16, 16, 8 + i * 8);
    const std::vector<uint8_t> good = module.build();
    std::mt19937 random(20240501);
    size_t opened = 0;
    for (int round = 0; round < 500; ++round) {
        std::vector<uint8_t> bad = good;
        for (int i = 0; i < 8; ++i)
            bad[random() % bad.size()] = static_cast<uint8_t>(random());
        if (round % 2 == 0)
            bad.resize(random() % bad.size());
        const std::string path = write("hostile", bad);
        dwunw_table *table = nullptr;
        const dwunw_status status = dwunw_table_open(context_, path.c_str(), &table);
        if (status != DWUNW_OK) {
            EXPECT_TRUE(status == DWUNW_ERR_NOT_ELF || status == DWUNW_ERR_ELF_MALFORMED ||
                        status == DWUNW_ERR_UNSUPPORTED_ARCH || status == DWUNW_ERR_NO_CFI || status == DWUNW_ERR_LIMIT)
                << dwunw_status_string(status);
            EXPECT_EQ(table, nullptr);
            continue;
        }
        ++opened;
        dwunw_table_summary summary{};
        summary.size = sizeof(summary);
        ASSERT_EQ(dwunw_table_get_summary(table, &summary), DWUNW_OK);
        EXPECT_LE(summary.rows, 2000u);
        dwunw_table_close(table);
    }
    EXPECT_GT(opened, 20u);
}

} // namespace
