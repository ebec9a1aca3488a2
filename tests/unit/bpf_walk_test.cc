// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares the walk of dwunw.bpf.h, as user code, with the user-space walk, on hand-written modules and stacks. A
// complete stack equals that walk's, frame for frame; everything else goes to user space, with its reason.
#include "support/bpf_user_walk.h"

#include "bpf/table_encoding.h"
#include "support/fake_space.h"
#include "unwind/walk.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <thread>

namespace dwunw::bpf {
namespace {

using namespace dwarf;
using testing::Bytes;
using testing::FakeSpace;
using testing::FrameSection;
using testing::registers;
using testing::x86_64;
using unwind::CodeKind;
using enum testing::Reg;

constexpr uint64_t kModule = 0x400000;
constexpr uint64_t kModuleSize = 0x3000;
constexpr uint64_t kJit = 0x10000;
constexpr uint64_t kUprobes = 0x7fffffffe000;
constexpr uint64_t kStack = 0x7ff000;
constexpr size_t kStackWords = 1024;
constexpr uint64_t kSp = kStack + 256;

enum Function : uint64_t {
    kLeaf = 0x1000,     // CFA = rsp+8
    kMiddle = 0x1100,   // CFA = rsp+32, rbp saved at CFA−16
    kByRbp = 0x1200,    // CFA = rbp+16, rbp saved at CFA−16
    kDrap = 0x1300,     // CFA = [rbp−8], rbp = [rbp]
    kPlt = 0x1400,      // CFA = rsp+8, +8 from byte 11 of 16 on
    kRoot = 0x1500,     // the return address is undefined
    kSignal = 0x1600,   // a trampoline with the usual CFI
    kForgets = 0x1700,  // CFA = rsp+16, rbp undefined
    kPlus = 0x1800,     // CFA = rsp+24, rbp = CFA−8
    kDeref = 0x1900,    // CFA = [rsp+8]+8
    kByR10 = 0x1a00,    // CFA = r10: the interpreter's
    kNoCfi = 0x1b00,    // none covers it
    kBefore = 0x1c00,   // CFA = rsp+8, up to kMusl
    kMusl = 0x1d00,     // no CFI, the code of a signal trampoline
    kOdd = 0x1e00,      // CFA = rsp+12
    kStuck = 0x1f00,    // CFA = rsp+0
    kFarAbove = 0x2000, // CFA = rsp+0x200, rbp saved at CFA−0x1f8
    kLast = 0x2f00,     // CFA = rsp+8, to the mapping's end
};

class BpfWalk : public ::testing::Test {
  protected:
    BpfWalk() : words_(kStackWords), rules_(size_t{1} << DWUNW_BPF_CACHE_BITS) {
        FrameSection section;
        const size_t cie = section.cie();
        section.fde(cie, kLeaf, 0x100);
        section.fde(cie, kMiddle, 0x100, Bytes().def_cfa_offset(32).offset(RBP, 2));
        section.fde(cie, kByRbp, 0x100, Bytes().def_cfa(RBP, 16).offset(RBP, 2));
        section.fde(cie, kDrap, 0x100,
                    Bytes({DW_CFA_def_cfa_expression, 3, DW_OP_breg0 + 6, 0x78, DW_OP_deref})
                        .add({DW_CFA_expression, RBP, 2, DW_OP_breg0 + 6, 0}));
        section.fde(cie, kPlt, 0x100,
                    Bytes({DW_CFA_def_cfa_expression, 11, DW_OP_breg0 + 7, 8, DW_OP_breg0 + 16, 0, DW_OP_lit0 + 15,
                           DW_OP_and, DW_OP_lit0 + 11, DW_OP_ge, DW_OP_lit0 + 3, DW_OP_shl, DW_OP_plus}));
        section.fde(cie, kRoot, 0x100, Bytes({DW_CFA_undefined, RIP}));
        section.fde(cie, kForgets, 0x100, Bytes().def_cfa_offset(16).add({DW_CFA_undefined, RBP}));
        section.fde(cie, kPlus, 0x100, Bytes().def_cfa_offset(24).add({DW_CFA_val_offset, RBP, 1}));
        section.fde(cie, kDeref, 0x100,
                    Bytes({DW_CFA_def_cfa_expression, 5, DW_OP_breg0 + 7, 8, DW_OP_deref, DW_OP_plus_uconst, 8}));
        section.fde(cie, kByR10, 0x100, Bytes().def_cfa(R10, 0));
        section.fde(cie, kBefore, 0x100);
        section.fde(cie, kOdd, 0x100, Bytes().def_cfa_offset(12));
        section.fde(cie, kStuck, 0x100, Bytes().def_cfa_offset(0));
        section.fde(cie, kFarAbove, 0x100, Bytes().def_cfa_offset(0x200).offset(RBP, 0x3f));
        section.fde(cie, kLast, 0x100);
        const size_t signal_cie = section.cie(testing::usual_cie_instructions(), "zRS");
        section.fde(signal_cie, kSignal - 1, 0x101,
                    Bytes({DW_CFA_def_cfa_expression, 4, DW_OP_breg0 + 7, 0xa0, 1, DW_OP_deref})
                        .add({DW_CFA_expression, RIP, 3, DW_OP_breg0 + 7, 0xa8, 1})
                        .add({DW_CFA_expression, RBP, 3, DW_OP_breg0 + 7, 0xf8, 0})
                        .add({DW_CFA_expression, RSP, 3, DW_OP_breg0 + 7, 0xa0, 1}));
        space_.add_module(kModule, kModuleSize, section);
        space_.add_other(CodeKind::kAnonymous, kJit, 0x1000);
        space_.add_other(CodeKind::kUprobeTrampoline, kUprobes, 0x1000);
        space_.set_code(at(kMusl), {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05});
        space_.compile();

        const unwind::Table &table = **space_.find(RunAddr(kModule)).cfi->compile();
        cells_ = table_cells(table);
        cells_.insert(cells_.begin(), 5, 0); // not at the pool's beginning
        mappings_ = {
            {.start = kJit, .end = kJit + 0x1000, .origin = 0, .table = 0, .kind = DWUNW_BPF_ANONYMOUS},
            {.start = kModule,
             .end = kModule + kModuleSize,
             .origin = kModule + table.base().value,
             .table = 5,
             .kind = DWUNW_MAPPING_MODULE},
        };
        process_.generation = 1;
        process_.layout = 1;
        process_.count = 2;
        process_.exec_pages = 10;
        process_.code_filter = ~0ull;
        process_.tgid = 1;
        world_.settings = {.use_bpf_loop = 1,
                           .use_task_storage = 1,
                           .max_frames = DWUNW_BPF_MAX_FRAMES,
                           .slice_bytes = kStackWords * 8,
                           .report_unknown = 0,
                           .path_limit = 1000,
                           .seed = 0,
                           .use_find_vma = 0,
                           .pid_namespace = 0,
                           .off = 0,
                           .reserved = 0};
        world_.pool = cells_.data();
        world_.pool_cells = cells_.size();
        world_.mappings = mappings_.data();
        world_.mapping_count = mappings_.size();
        world_.process = &process_;
        world_.rules = rules_.data();
        world_.trampoline = kUprobes;
        world_.exec_pages = 10;
        world_.stack_end = kStack + kStackWords * 8;
        world_.read = read;
        world_.arg = this;
    }

    static uint64_t at(uint64_t function, uint64_t offset = 0) { return kModule + function + offset; }

    // The module once more, above everything else.
    void map_again(uint64_t start) {
        dwunw_mapping again = mappings_.back();
        again.origin += start - again.start;
        again.end += start - again.start;
        again.start = start;
        mappings_.push_back(again);
        world_.mappings = mappings_.data();
        world_.mapping_count = process_.count = static_cast<uint32_t>(mappings_.size());
        space_.add_module_again(kModule, start);
    }

  public:
    BpfWalk &set(uint64_t address, uint64_t value) {
        words_.at((address - kStack) / 8) = value;
        return *this;
    }

  protected:
    // All of the range has to be there, as for the kernel.
    static int read(void *arg, uint64_t address, void *buffer, size_t length) {
        auto &self = *static_cast<BpfWalk *>(arg);
        if (address >= kStack && address - kStack <= kStackWords * 8 &&
            length <= kStackWords * 8 - (address - kStack)) {
            if (address < self.hole_end_ && address + length > self.hole_start_)
                return 0;
            std::memcpy(buffer, reinterpret_cast<const uint8_t *>(self.words_.data()) + (address - kStack), length);
            return 1;
        }
        return self.space_.read_code(RunAddr(address), {static_cast<uint8_t *>(buffer), length});
    }

    int64_t kernel_walk(uint64_t pc, uint64_t fp, uint64_t flags = 0) {
        std::array<uint64_t, DWUNW_BPF_PT_REGS> regs{};
        regs[16] = pc;
        regs[19] = sp_;
        regs[4] = fp;
        regs[7] = r10_;
        regs[17] = 0x33;
        world_.pending = pending_.data();
        world_.pending_count = pending_.size();
        world_.sent_count = 0;
        return bpf_user_get_stackid(&world_, regs.data(), flags);
    }

    dwunw_status user_walk(uint64_t pc, uint64_t fp) {
        const auto regs = registers({{RIP, pc}, {RSP, sp_}, {RBP, fp}, {R10, r10_}});
        std::vector<dwunw_pending_return> pending;
        for (const auto &one : pending_)
            pending.push_back({one.slot, one.return_address});
        const unwind::StackMemory memory(RunAddr(kStack),
                                         {reinterpret_cast<const uint8_t *>(words_.data()), kStackWords * 8});
        result_ = unwind::walk({space_, x86_64(), regs, memory, pending, frames_, true});
        return result_.status;
    }

    void expect_equal() {
        ASSERT_EQ(world_.stack.count, result_.written);
        for (size_t i = 0; i < result_.written; ++i) {
            const uint64_t word = world_.stack.frames[i];
            EXPECT_EQ(word & DWUNW_BPF_FRAME_PC, frames_[i].pc) << i;
            EXPECT_EQ((word & DWUNW_BPF_FRAME_EXACT) != 0, (frames_[i].flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0) << i;
            EXPECT_EQ((word & DWUNW_BPF_FRAME_SIGNAL) != 0, (frames_[i].flags & DWUNW_FRAME_FLAG_SIGNAL) != 0) << i;
            EXPECT_EQ((word & DWUNW_BPF_FRAME_TRAMPOLINE) != 0, frames_[i].source == DWUNW_SOURCE_TRAMPOLINE) << i;
        }
    }
    // Cold, then out of the cache.
    void expect_complete(uint64_t pc, uint64_t fp, size_t frames) {
        ASSERT_EQ(user_walk(pc, fp), DWUNW_OK);
        EXPECT_EQ(result_.written, frames);
        const int64_t cold = kernel_walk(pc, fp);
        EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
        ASSERT_GT(cold, 0);
        EXPECT_EQ(static_cast<uint64_t>(cold), world_.stack.id);
        expect_equal();
        const uint64_t misses = world_.counters[DWUNW_BPF_CACHE_MISSES];
        EXPECT_EQ(kernel_walk(pc, fp), cold);
        expect_equal();
        EXPECT_LE(world_.counters[DWUNW_BPF_CACHE_MISSES] - misses, pending_.size());
        world_.settings.use_bpf_loop = 0;
        world_.settings.max_frames = DWUNW_BPF_MAX_FRAMES_OLD;
        EXPECT_EQ(kernel_walk(pc, fp), cold) << "in the form for old kernels";
        expect_equal();
        world_.settings.use_bpf_loop = 1;
        world_.settings.max_frames = DWUNW_BPF_MAX_FRAMES;
    }
    void expect_left(uint64_t pc, uint64_t fp, uint32_t reason) {
        const size_t walks = world_.walks_sent;
        for (const char *how : {"cold", "again"}) {
            SCOPED_TRACE(how);
            EXPECT_GT(kernel_walk(pc, fp), 0);
            EXPECT_EQ(world_.reason, reason);
            EXPECT_EQ(world_.walk_reason, reason);
        }
        EXPECT_EQ(world_.walks_sent, walks + 2);
    }

    FakeSpace space_;
    std::vector<uint64_t> words_;
    std::vector<uint64_t> cells_;
    std::vector<dwunw_mapping> mappings_;
    std::vector<dwunw_cached_rule> rules_;
    std::vector<dwunw_bpf_pending> pending_;
    dwunw_process_slot process_{};
    bpf_user_world world_{};
    unwind::WalkResult result_;
    std::array<dwunw_frame, 600> frames_{};
    uint64_t sp_ = kSp;
    uint64_t r10_ = 0;
    uint64_t hole_start_ = 0;
    uint64_t hole_end_ = 0;
};

TEST_F(BpfWalk, PlainFrames) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 16, kSp + 80).set(kSp + 8 + 24, at(kByRbp, 0x30));
    set(kSp + 80, 0).set(kSp + 88, at(kRoot, 0x40));
    expect_complete(at(kLeaf, 4), 0, 4);
}

TEST_F(BpfWalk, AReturnAddressOfZeroIsTheEnd) {
    set(kSp, 0);
    expect_complete(at(kLeaf), 0, 1);
}

// No table has such a rule, but the walk does not take it for another kind.
TEST_F(BpfWalk, TheReservedPlaceOfAReturnAddressIsLeftToUserSpace) {
    unwind::Rule leaf;
    leaf.cfa_reg = RSP;
    leaf.cfa_offset = 8;
    leaf.ra_kind = unwind::ValueKind::kAtCfa;
    leaf.ra_offset = -8;
    const uint64_t word = rule_word(leaf, x86_64());
    const auto found = std::ranges::find(cells_, word);
    ASSERT_NE(found, cells_.end());
    *found |= uint64_t{DWUNW_RULE_RA_IN_REGISTER} << DWUNW_RULE_RA_SHIFT;
    set(kSp, at(kRoot, 1));
    expect_left(at(kLeaf), kSp, DWUNW_BPF_COMPLEX);
}

TEST_F(BpfWalk, AlignedFrames) {
    // leaf → drap, whose CFA lies in its frame.
    set(kSp, at(kDrap, 0x20)).set(kSp + 104 - 8, kSp + 200).set(kSp + 104, kSp + 300 / 8 * 8);
    set(kSp + 200 - 8, at(kRoot, 1));
    expect_complete(at(kLeaf), kSp + 104, 3);
}

TEST_F(BpfWalk, PltEntriesBeforeAndBehindTheirPush) {
    set(kSp, at(kRoot, 1)).set(kSp + 8, at(kRoot, 2));
    for (uint64_t byte = 0; byte < 16; ++byte) {
        expect_complete(at(kPlt, 16 + byte), 0, 2);
        EXPECT_EQ(frames_[1].pc, at(kRoot, byte >= 11 ? 2 : 1)) << byte;
    }
}

TEST_F(BpfWalk, SignalFrames) {
    // handler → trampoline → interrupted, exact → root
    set(kSp, at(kSignal)).set(kSp + 8 + 160, kSp + 512).set(kSp + 8 + 168, at(kMiddle)).set(kSp + 8 + 120, 77);
    set(kSp + 512 + 16, 0).set(kSp + 512 + 24, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 4);
    EXPECT_EQ(frames_[2].flags, uint32_t{DWUNW_FRAME_FLAG_EXACT_PC});
}

TEST_F(BpfWalk, ASignalStackMayLieAbove) {
    sp_ = kSp + 2048;
    set(sp_, at(kSignal)).set(sp_ + 8 + 160, kSp).set(sp_ + 8 + 168, at(kLeaf)).set(sp_ + 8 + 120, 0);
    set(kSp, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 4);
}

TEST_F(BpfWalk, OtherWaysToCfaAndFp) {
    // plus: rbp becomes CFA − 8, which by_rbp then needs.
    set(kSp, at(kPlus, 1)).set(kSp + 8 + 16, at(kByRbp, 1));
    set(kSp + 32, at(kDeref, 1));
    // deref: CFA = [rsp+8] + 8, rsp being kSp + 40
    set(kSp + 48, kSp + 400).set(kSp + 400, at(kFarAbove, 1));
    // far above: rsp is kSp + 408
    set(kSp + 408 + 8, kSp + 1200).set(kSp + 408 + 0x1f8, at(kByRbp, 7));
    set(kSp + 1200, 0).set(kSp + 1208, at(kRoot, 1));
    expect_complete(at(kLeaf), 5, 7);
}

TEST_F(BpfWalk, AnUnalignedStack) {
    // CFA = rsp + 12
    auto *bytes = reinterpret_cast<uint8_t *>(words_.data());
    const uint64_t outer = at(kRoot, 1);
    std::memcpy(bytes + (kSp - kStack) + 4, &outer, sizeof(outer));
    expect_complete(at(kOdd), 0, 2);
}

TEST_F(BpfWalk, TheStacksLastWordIsRead) {
    sp_ = kStack + kStackWords * 8 - 8;
    set(sp_, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 2);
    sp_ -= 0x400;
    set(sp_ + 8, at(kRoot, 1)).set(sp_, at(kForgets, 1));
    set(sp_ + 16, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 3);
}

TEST_F(BpfWalk, PendingReturns) {
    // Three of them, the inner two in one slot: a tail call.
    set(kSp, kUprobes).set(kSp + 8 + 16, 3).set(kSp + 8 + 24, kUprobes);
    pending_ = {{kSp, at(kMiddle, 0x20)}, {kSp, at(kMiddle, 0x20)}, {kSp + 32, at(kRoot, 9)}};
    expect_complete(at(kLeaf), 0, 3);
    // One that was jumped over comes first.
    pending_.insert(pending_.begin(), {kSp - 64, at(kLeaf)});
    expect_complete(at(kLeaf), 0, 3);
}

// With 5-level paging the kernel's page of pending returns lies above all addresses of 4-level paging. Found in use:
// the walk took it for no address, and nine of ten stacks were lost wherever another tool had a return probe.
TEST_F(BpfWalk, PendingReturnsWithFiveLevelPaging) {
    constexpr uint64_t kWideUprobes = 0xffffffffffe000;
    space_.add_other(CodeKind::kUprobeTrampoline, kWideUprobes, 0x1000);
    world_.trampoline = kWideUprobes;
    set(kSp, kWideUprobes).set(kSp + 8 + 16, 3).set(kSp + 8 + 24, kWideUprobes);
    pending_ = {{kSp, at(kMiddle, 0x20)}, {kSp + 32, at(kRoot, 9)}};
    expect_complete(at(kLeaf), 0, 3);
    pending_.clear();
    expect_left(at(kLeaf), 0, DWUNW_BPF_TRAMPOLINE);
    // What would be the trampoline's address with 4-level paging is no address here.
    set(kSp, kUprobes | uint64_t{1} << 57);
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
}

// A program may ask for memory there. The cache's keys have no room for such addresses.
TEST_F(BpfWalk, CodeAboveTheAddressesOfFourLevelPaging) {
    constexpr uint64_t kWide = 0xff000000400000;
    static_assert((kWide & ((uint64_t{1} << DWUNW_BPF_PC_BITS) - 1)) == kModule); // one key for both
    map_again(kWide);
    const auto far = [](uint64_t function, uint64_t offset) { return kWide + function + offset; };
    set(kSp, far(kMiddle, 0x20)).set(kSp + 8 + 16, 3).set(kSp + 8 + 24, at(kMiddle, 0x20));
    set(kSp + 40 + 16, 3).set(kSp + 40 + 24, far(kRoot, 9));
    for (const char *how : {"cold", "warm"}) {
        SCOPED_TRACE(how);
        ASSERT_EQ(user_walk(far(kLeaf, 0), 0), DWUNW_OK);
        EXPECT_EQ(result_.written, 4u);
        ASSERT_GT(kernel_walk(far(kLeaf, 0), 0), 0);
        EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
        expect_equal();
    }
    // The other way round: what is remembered of an address is not taken for a wide one's.
    set(kSp, at(kRoot, 9));
    expect_complete(at(kLeaf), 0, 2);
    for (auto &mapping : mappings_)
        if (mapping.start == kWide)
            mapping.end = mapping.start + 1;
    set(kSp, far(kRoot, 9));
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
}

// Two stacks for user space that differ in such an address alone are two.
TEST_F(BpfWalk, StacksThatDifferInAWideAddressAlone) {
    constexpr uint64_t kWide = 0xff000000400000;
    map_again(kWide);
    set(kSp, kJit + 0x100).set(kSp + 64, kWide + kMiddle + 0x20);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    set(kSp + 64, kWide + kMiddle + 0x28);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id);
}

TEST_F(BpfWalk, APendingReturnMayBeTheEnd) {
    set(kSp, kUprobes);
    pending_ = {{kSp, 0}};
    expect_complete(at(kLeaf), 0, 1);
}

TEST_F(BpfWalk, ATrampolineBehindAMapping) {
    mappings_.push_back({.start = kUprobes - 0x1000, .end = kUprobes, .origin = 0, .table = 5, .kind = 0});
    world_.mappings = mappings_.data();
    world_.mapping_count = process_.count = 3;
    set(kSp, kUprobes);
    pending_ = {{kSp, at(kRoot, 1)}};
    expect_complete(at(kLeaf), 0, 2);
}

// A call that never returns, as its function's last instruction: the rule is the caller's, not the next function's.
TEST_F(BpfWalk, CallAtTheEndOfItsFunction) {
    space_.set_code(at(kMiddle) - 5, {0xe8});
    set(kSp, at(kMiddle)).set(kSp + 8, at(kRoot, 0x20));
    expect_complete(at(kLeaf), 0, 3);
}

TEST_F(BpfWalk, AnUndecidedStackGoesToUserSpace) {
    set(kSp, kUprobes);
    expect_left(at(kLeaf), 0, DWUNW_BPF_TRAMPOLINE);
    set(kSp, kJit + 0x100);
    expect_left(at(kLeaf), 0, DWUNW_BPF_ANONYMOUS);
    set(kSp, at(kNoCfi, 0x20));
    expect_left(at(kLeaf), 0, DWUNW_BPF_GAP);
    set(kSp, 0x123456789);
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
    set(kSp, at(kLeaf) | uint64_t{1} << 47);
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
    set(kSp, at(kByR10, 0x20));
    expect_left(at(kLeaf), 0, DWUNW_BPF_COMPLEX);
    set(kSp, at(kMusl)); // the byte before it has a rule
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_CALL);
    set(kSp, at(kMiddle)); // the byte before it has another rule, and is no call's
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_CALL);
    set(kSp, at(kForgets, 1)).set(kSp + 8 + 8, at(kByRbp, 1));
    expect_left(at(kLeaf), 0, DWUNW_BPF_REGISTER);
    set(kSp, at(kByRbp, 1));
    expect_left(at(kLeaf), 8, DWUNW_BPF_UNREADABLE);
    expect_left(at(kStuck), 0, DWUNW_BPF_NO_PROGRESS);
    expect_left(0x123, 0, DWUNW_BPF_NO_MAPPING);
}

// A pc of 0 that a signal interrupted is no root: the caller of the null pointer follows, in user space.
TEST_F(BpfWalk, ASignalInACallOfANullPointer) {
    set(kSp, at(kSignal)).set(kSp + 8 + 160, kSp + 512).set(kSp + 8 + 168, 0);
    set(kSp + 512, at(kMiddle, 0x20)).set(kSp + 512 + 8 + 24, at(kRoot, 1));
    expect_left(at(kLeaf), 0, DWUNW_BPF_NO_MAPPING);
    // Which of the registers that the signal saved was called is not in the id: no two are one stack.
    const int64_t id = kernel_walk(at(kLeaf), 0);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id);
}

TEST_F(BpfWalk, CallsOfNoCodeDifferInTheRegisterThatWasCalled) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 24, at(kRoot, 1));
    expect_left(0x123, 0, DWUNW_BPF_NO_MAPPING);
    const int64_t id = kernel_walk(0x123, 0);
    EXPECT_EQ(kernel_walk(0x123, 0x124), id);
    EXPECT_NE(kernel_walk(0x123, 0x123), id) << "the frame pointer is what was called";
}

TEST_F(BpfWalk, DeepStacks) {
    sp_ = kStack;
    for (size_t i = 0; i < 511; ++i)
        set(kStack + 8 * i, at(kLeaf, 0x10));
    set(kStack + 8 * 510, at(kRoot, 1));
    ASSERT_EQ(user_walk(at(kLeaf), 0), DWUNW_OK);
    ASSERT_EQ(result_.written, 512u);
    EXPECT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    expect_equal();
    set(kStack + 8 * 510, at(kLeaf, 1)).set(kStack + 8 * 511, at(kRoot, 1));
    EXPECT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_FRAME_LIMIT);
}

TEST_F(BpfWalk, OnlyAValidMapIsUsed) {
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    ASSERT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    const auto expect_changed = [&](const char *why) {
        SCOPED_TRACE(why);
        EXPECT_GT(kernel_walk(at(kLeaf), 0), 0);
        EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED);
        EXPECT_EQ(world_.walk_layout, 0u);
    };
    process_.changes = 1;
    expect_changed("the linker was at work");
    EXPECT_EQ(world_.processes_sent, 1u) << "asked once";
    EXPECT_EQ(process_.need_sent, 1u);
    expect_changed("still");
    EXPECT_EQ(world_.processes_sent, 1u);
    process_.changes = 0;
    world_.exec_pages = 11;
    expect_changed("pages");
    world_.exec_pages = 10;
    process_.lock = 1;
    expect_changed("being written");
    process_.lock = 2;
    process_.generation = 0;
    expect_changed("nothing published");
    process_.generation = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    process_.tgid = 2;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_UNKNOWN_PROCESS);
    world_.process = nullptr;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_UNKNOWN_PROCESS);
    world_.settings.report_unknown = 1;
    expect_changed("unknown, and to be reported");
}

TEST_F(BpfWalk, RulesOfAnotherGenerationAreNotUsed) {
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    ASSERT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    cells_.assign(cells_.size(), 0); // no rules any more
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE) << "out of the cache";
    process_.generation = 2;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_GAP);
}

// Found in use: while plugins were loaded and unloaded all the time, every stack went to user space.
TEST_F(BpfWalk, LastingMappingsAreWalkedWhileTheMapChanges) {
    process_.lasting_first = 1; // the module
    process_.lasting_count = 1;
    process_.lasting_generation = 7;
    process_.lasting_layout = 9;
    process_.changes = 1;
    set(kSp, at(kRoot, 1));
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE);
    EXPECT_EQ(world_.stack.layout, 9u);
    EXPECT_EQ(world_.processes_sent, 1u) << "the map must be read nevertheless";
    process_.changes = 2;
    world_.exec_pages = 12;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id) << "what lasts means the same";

    set(kSp, kJit + 0x10);
    const int64_t through_other_code = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(through_other_code, 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_CHANGED) << "in no mapping that lasts";
    EXPECT_EQ(world_.walk_layout, 0u) << "user space may need other mappings, too";
    process_.changes = 3;
    EXPECT_NE(kernel_walk(at(kLeaf), 0), through_other_code) << "another moment";

    set(kSp, at(kRoot, 1));
    process_.execs = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED) << "another program";
    process_.execs = 0;
    process_.lock = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED) << "being written";
}

TEST_F(BpfWalk, CachedRulesOfOtherMappingsAreNotUsedWhileTheMapChanges) {
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    ASSERT_EQ(world_.reason, DWUNW_BPF_COMPLETE) << "and its rules are cached";
    process_.lasting_count = 1; // the other mapping
    process_.lasting_generation = 7;
    process_.lasting_layout = 9;
    process_.changes = 1;
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_CHANGED);
}

TEST_F(BpfWalk, MoreMappingsThanArePublished) {
    process_.incomplete = 1;
    set(kSp, at(kRoot, 1));
    ASSERT_GT(kernel_walk(at(kLeaf), 0), 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_COMPLETE) << "those that are";
    set(kSp, 0x12345678);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_NOT_PUBLISHED);
    EXPECT_EQ(world_.walk_layout, 1u) << "the map is known in user space";
    set(kSp + 512, 0x23456789);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "any word may be code that is not published";
    process_.count = 0;
    ASSERT_GT(kernel_walk(at(kLeaf, 8), 0), 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_NOT_PUBLISHED);
}

TEST_F(BpfWalk, EqualStacksForUserSpaceHaveOneId) {
    set(kSp, kJit + 0x100).set(kSp + 64, at(kMiddle, 0x20)).set(kSp + 72, kSp + 128);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    set(kSp + 80, 12345).set(kSp + 88, 0x10); // what is neither code nor stack
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    const auto expect_other = [&](uint64_t address, uint64_t value) {
        const uint64_t before = words_[(address - kStack) / 8];
        set(address, value);
        EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << std::hex << address << " " << value;
        set(address, before);
        EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    };
    expect_other(kSp + 64, at(kMiddle, 0x28));
    expect_other(kSp + 64, 0);
    expect_other(kSp + 1024, at(kMiddle, 0x20));
    expect_other(kSp + 72, kSp + 136);
    expect_other(kStack + kStackWords * 8 - 8, at(kMiddle, 0x20));
    EXPECT_NE(kernel_walk(at(kLeaf), kSp + 64), id) << "the frame pointer";
}

// What a pending return took out of its slot lies nowhere in the stack: two callers had one id, and one's frames.
TEST_F(BpfWalk, StacksThatDifferInAPendingReturnAlone) {
    set(kSp, kJit + 0x100).set(kSp + 64, kUprobes);
    for (const uint64_t flags : {uint64_t{0}, uint64_t{DWUNW_USER_ONLY}}) {
        pending_ = {{kSp - 64, 0}, {kSp + 64, at(kMiddle, 0x20)}};
        const int64_t id = kernel_walk(at(kLeaf), 0, flags);
        ASSERT_GT(id, 0);
        pending_ = {{kSp - 64, 0}, {kSp + 64, at(kMiddle, 0x28)}};
        EXPECT_NE(kernel_walk(at(kLeaf), 0, flags), id);
        pending_ = {{kSp - 64, 0}, {kSp + 64, at(kMiddle, 0x20)}};
        EXPECT_EQ(kernel_walk(at(kLeaf), 0, flags), id);
        sp_ += 512; // the same, elsewhere
        set(sp_, kJit + 0x100).set(sp_ + 64, kUprobes);
        pending_ = {{sp_ - 64, 0}, {sp_ + 64, at(kMiddle, 0x20)}};
        set(kSp, 0).set(kSp + 64, 0);
        const int64_t elsewhere = kernel_walk(at(kLeaf), 0, flags);
        sp_ = kSp;
        set(kSp, kJit + 0x100).set(kSp + 64, kUprobes).set(kSp + 512, 0).set(kSp + 512 + 64, 0);
        EXPECT_EQ(elsewhere, id);
    }
}

// The words that tell a slice are those at multiples of 8: of a stack that lies between them, none is one.
TEST_F(BpfWalk, UnalignedStacksForUserSpaceAreNeverTakenForEachOther) {
    auto *bytes = reinterpret_cast<uint8_t *>(words_.data()) + (kSp - kStack);
    const auto put = [&](size_t at_byte, uint64_t value) { std::memcpy(bytes + at_byte, &value, sizeof(value)); };
    for (const bool from_the_start : {true, false}) {
        SCOPED_TRACE(from_the_start);
        sp_ = from_the_start ? kSp + 4 : kSp;
        const uint64_t pc = from_the_start ? at(kLeaf) : at(kOdd);
        put(4, kJit + 0x100);
        put(36, at(kMiddle, 0x20));
        const int64_t id = kernel_walk(pc, 0);
        ASSERT_GT(id, 0);
        EXPECT_EQ(world_.reason, DWUNW_BPF_ANONYMOUS);
        put(36, at(kMiddle, 0x28));
        EXPECT_NE(kernel_walk(pc, 0), id);
    }
}

// A return to code that came after the map was published, with as many pages as went: what is mapped now is not known.
TEST_F(BpfWalk, StacksThatDifferInCodeThatIsNotPublished) {
    process_.code_filter = 1ull << DWUNW_BPF_FILTER_BIT(kModule); // as the publisher has it
    space_.add_other(CodeKind::kAnonymous, 0x7f0012340000, 0x10000);
    set(kSp, 0x7f0012345678).set(kSp + 32, 0x7f0012340000);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    ASSERT_GT(id, 0);
    EXPECT_EQ(world_.reason, DWUNW_BPF_NO_MAPPING);
    set(kSp, 0x7f0012345688);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "where it stopped";
    set(kSp, 0x7f0012345678);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    set(kSp + 32, 0x7f0012340008);
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "further out";
    set(kSp + 32, 0x7f0012340000).set(kSp + 40, 12345);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id) << "small numbers are no code";
}

// In one of seven processes a module's bit of the filter was that of zero, and every zero in a stack was looked up.
TEST(BpfCodeFilter, SmallNumbersShareNoBitWithCode) {
    constexpr uint64_t kGranule = 1 << 21;
    for (const uint64_t small : {uint64_t{0}, uint64_t{1}, kGranule - 1})
        EXPECT_EQ(DWUNW_BPF_FILTER_BIT(small), 0u) << small;
    std::array<int, 64> used{};
    constexpr int kCount = 6300;
    for (int i = 1; i <= kCount; ++i) {
        for (const uint64_t base : {uint64_t{0}, uint64_t{0x5555'5540'0000}, uint64_t{0x7fff'0000'0000}}) {
            const uint64_t bit = DWUNW_BPF_FILTER_BIT(base + static_cast<uint64_t>(i) * kGranule);
            ASSERT_GE(bit, 1u);
            ASSERT_LE(bit, 63u);
            ++used[bit];
        }
    }
    EXPECT_LT(*std::max_element(used.begin(), used.end()), 2 * 3 * kCount / 63) << "spread over all of them";
}

TEST_F(BpfWalk, EqualFramesElsewhereInTheStackAreOneStack) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 24, at(kRoot, 0x30)).set(kSp + 24, 1);
    const int64_t id = kernel_walk(at(kLeaf), 0);
    sp_ += 512;
    set(sp_, at(kMiddle, 0x20)).set(sp_ + 8 + 24, at(kRoot, 0x30)).set(sp_ + 24, 2);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), id);
    set(sp_, at(kMiddle, 0x21));
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id);
    process_.layout = 2;
    set(sp_, at(kMiddle, 0x20));
    EXPECT_NE(kernel_walk(at(kLeaf), 0), id) << "the addresses mean something else";
}

TEST_F(BpfWalk, FlagsAndReasons) {
    set(kSp, at(kRoot, 1));
    EXPECT_GT(kernel_walk(at(kLeaf), 0, DWUNW_USER_ONLY), 0);
    EXPECT_EQ(world_.walk_reason, DWUNW_BPF_FORCED);
    set(kSp, kJit + 0x100);
    EXPECT_EQ(kernel_walk(at(kLeaf), 0, DWUNW_KERNEL_ONLY), -DWUNW_BPF_KERNEL_ONLY_END);
    world_.ring_is_full = 1;
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_DROPPED);
    set(kSp, at(kRoot, 1));
    EXPECT_EQ(kernel_walk(at(kLeaf), 0), -DWUNW_BPF_DROPPED);
    EXPECT_EQ(world_.sent_count, 0u) << "what was not sent is not noted as sent";
    EXPECT_EQ(world_.counters[DWUNW_BPF_DROPPED], 2u);
}

TEST_F(BpfWalk, ThirtyTwoBitCodeIsNotWalked) {
    std::array<uint64_t, DWUNW_BPF_PT_REGS> regs{};
    regs[16] = at(kLeaf);
    regs[19] = kSp;
    regs[17] = 0x23;
    EXPECT_EQ(bpf_user_get_stackid(&world_, regs.data(), 0), -DWUNW_BPF_NOT_USER);
}

TEST_F(BpfWalk, PagesThatAreNotThereAreNeededOrNot) {
    // The frames leave out what cannot be read.
    hole_start_ = kStack + 0x1000;
    hole_end_ = kStack + 0x1800;
    set(kSp, at(kDeref, 1)).set(kSp + 16, kStack + 0x1900).set(kStack + 0x1900, at(kRoot, 1));
    expect_complete(at(kLeaf), 0, 3);
    set(kSp + 16, kStack + 0x1200);
    expect_left(at(kLeaf), 0, DWUNW_BPF_UNREADABLE);
}

// For any stack: a stack that is complete in the kernel is complete in user space, with the same frames.
TEST_F(BpfWalk, RandomStacks) {
    std::mt19937_64 random(7);
    constexpr std::array kFunctions = {kLeaf, kMiddle, kByRbp, kDrap,  kPlt, kRoot,     kSignal, kForgets,
                                       kPlus, kDeref,  kByR10, kNoCfi, kOdd, kFarAbove, kBefore, kMusl};
    const auto code = [&] { return at(kFunctions[random() % kFunctions.size()], random() % 0x40); };
    const auto stack = [&] { return kStack + random() % kStackWords * 8; };
    size_t complete = 0;
    size_t missed = 0;
    for (int i = 0; i < 40000; ++i) {
        for (size_t word = 0; word < 256; ++word) {
            const uint64_t kind = random() % 16;
            words_[word] = kind < 9 ? code() : kind < 14 ? stack() : kind == 14 ? kUprobes : random() % 3;
        }
        if (i % 64 == 0)
            process_.generation = static_cast<uint32_t>(1 + i / 64);
        const uint64_t pc = code();
        const uint64_t fp = stack();
        pending_.clear();
        for (size_t word = 0; word < 256; ++word)
            if (words_[word] == kUprobes && random() % 4 != 0)
                pending_.push_back({kStack + word * 8, code()});
        ASSERT_NE(kernel_walk(pc, fp), 0);
        const bool kernel_complete = world_.reason == DWUNW_BPF_COMPLETE;
        const dwunw_status status = user_walk(pc, fp);
        if (!kernel_complete) {
            missed += status == DWUNW_OK && !result_.used_interpreter;
            continue;
        }
        ++complete;
        ASSERT_EQ(status, DWUNW_OK) << i;
        expect_equal();
        ASSERT_FALSE(HasFailure()) << i;
    }
    EXPECT_GT(complete, 4000u);
    EXPECT_LT(missed, complete / 20) << "sent to user space although rules alone decide";
}

// Two processes whose rules differ at the same addresses, in one cache, from many threads: a rule is never taken from
// one for the other, nor half of it.
TEST_F(BpfWalk, OneCacheForAll) {
    set(kSp, at(kMiddle, 0x20)).set(kSp + 8 + 24, at(kRoot, 0x30)).set(kSp + 24, 1);
    FrameSection other;
    const size_t cie = other.cie();
    other.fde(cie, kLeaf, 0x100, Bytes().def_cfa_offset(48));
    other.fde(cie, kMiddle, 0x100, Bytes().def_cfa_offset(16));
    other.fde(cie, kRoot, 0x100, Bytes({DW_CFA_undefined, RIP}));
    FakeSpace other_space;
    other_space.add_module(kModule, kModuleSize, other);
    const unwind::Table &table = **other_space.find(RunAddr(kModule)).cfi->compile();
    std::vector<uint64_t> other_cells = table_cells(table);
    std::vector<dwunw_mapping> other_mappings = mappings_;
    other_mappings[1].table = 0;
    other_mappings[1].origin = kModule + table.base().value;
    set(kSp + 40, at(kMiddle, 0x20)).set(kSp + 48 + 8, at(kRoot, 0x31));

    const auto hammer = [&](bool is_other, std::vector<std::string> &problems) {
        bpf_user_world world = world_;
        dwunw_process_slot slot = process_;
        world.process = &slot;
        if (is_other) {
            world.pool = other_cells.data();
            world.pool_cells = other_cells.size();
            world.mappings = other_mappings.data();
            slot.layout = 2;
        }
        std::array<uint64_t, DWUNW_BPF_PT_REGS> regs{};
        regs[16] = at(kLeaf, 4);
        regs[19] = kSp;
        regs[17] = 0x33;
        for (uint32_t i = 0; i < 200000 && problems.empty(); ++i) {
            slot.generation = (is_other ? 101 : 1) + i / 16 % 50;
            world.sent_count = 0;
            if (bpf_user_get_stackid(&world, regs.data(), 0) <= 0 || world.reason != 0 || world.stack.count != 3 ||
                (world.stack.frames[2] & DWUNW_BPF_FRAME_PC) != at(kRoot, is_other ? 0x31 : 0x30))
                problems.push_back("reason " + std::to_string(world.reason));
        }
    };
    std::array<std::vector<std::string>, 4> problems;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < problems.size(); ++i)
        threads.emplace_back([&, i] { hammer(i % 2 == 1, problems[i]); });
    for (std::thread &thread : threads)
        thread.join();
    for (const auto &list : problems)
        EXPECT_TRUE(list.empty()) << list.front();
}

} // namespace
} // namespace dwunw::bpf
