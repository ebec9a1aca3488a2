// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The walk of dwunw.bpf.h as user code, beside the user-space walk, on hand-written modules and stacks, for its tests.
#pragma once

#include "support/bpf_user_walk.h"

#include "bpf/table_encoding.h"
#include "support/walk_space.h"
#include "unwind/walk.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

namespace dwunw::testing {

constexpr uint64_t kModuleSize = 0x3000;
constexpr size_t kStackWords = 1024;
constexpr uint64_t kSp = kStack + 256;

// More functions of the module, and the code of those that have none.
constexpr uint64_t kDrap = 0x1300;     // CFA = [rbp−8], rbp = [rbp]
constexpr uint64_t kPlt = 0x1400;      // CFA = rsp+8, +8 from byte 11 of 16 on
constexpr uint64_t kForgets = 0x1700;  // CFA = rsp+16, rbp undefined
constexpr uint64_t kPlus = 0x1800;     // CFA = rsp+24, rbp = CFA−8
constexpr uint64_t kDeref = 0x1900;    // CFA = [rsp+8]+8
constexpr uint64_t kByR10 = 0x1a00;    // CFA = r10: the interpreter's
constexpr uint64_t kNoCfi = 0x1b00;    // none covers it
constexpr uint64_t kBefore = 0x1c00;   // CFA = rsp+8, up to kMusl
constexpr uint64_t kMusl = 0x1d00;     // no CFI, the code of a signal trampoline
constexpr uint64_t kOdd = 0x1e00;      // CFA = rsp+12
constexpr uint64_t kStuck = 0x1f00;    // CFA = rsp+0
constexpr uint64_t kFarAbove = 0x2000; // CFA = rsp+0x200, rbp saved at CFA−0x1f8
constexpr uint64_t kLast = 0x2f00;     // CFA = rsp+8, to the mapping's end

class BpfWalk : public ::testing::Test {
  protected:
    BpfWalk() : words_(kStackWords), rules_(size_t{1} << DWUNW_BPF_CACHE_BITS) {
        using namespace dwarf;
        FrameSection section;
        const size_t cie = section.cie();
        add_common_functions(section, cie);
        section.fde(cie, kDrap, 0x100,
                    Bytes({DW_CFA_def_cfa_expression, 3, DW_OP_breg0 + 6, 0x78, DW_OP_deref})
                        .add({DW_CFA_expression, RBP, 2, DW_OP_breg0 + 6, 0}));
        section.fde(cie, kPlt, 0x100,
                    Bytes({DW_CFA_def_cfa_expression, 11, DW_OP_breg0 + 7, 8, DW_OP_breg0 + 16, 0, DW_OP_lit0 + 15,
                           DW_OP_and, DW_OP_lit0 + 11, DW_OP_ge, DW_OP_lit0 + 3, DW_OP_shl, DW_OP_plus}));
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
        space_.add_module(kModule, kModuleSize, section);
        add_code_without_module(space_);
        set_signal_code(space_, at(kMusl));
        space_.compile();

        const unwind::Table &table = **space_.find(RunAddr(kModule)).cfi->compile();
        cells_ = bpf::table_cells(table);
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

} // namespace dwunw::testing
