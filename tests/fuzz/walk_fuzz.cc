// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Runs whole captures: a module's rules, code, registers and stack all come from the input. Proves that a walk ends;
// that its frames lie in mapped code (except pcs that are not code, which are flagged); that it is the same cold, warm,
// by single FDE and from the table; and that a shorter slice gives the first frames of the whole one, as many as it
// can.
//
// Input: flags (1: CFI only; 2: only SP and pc are known), how much the slice is cut (a byte), the number of bytes of
// code, these, hostile_cfi.h's input, then the registers and the stack's words, a kind (a byte) and 2 bytes each.
#include "unwind/walk.h"

#include "fuzz.h"
#include "hostile_cfi.h"
#include "support/walk_space.h"

namespace dwunw {
namespace {

using fuzz::require;
using testing::FakeSpace;
using testing::FakeStack;
using testing::kJit;
using testing::kModule;
using testing::kStack;
using testing::kUprobes;
using unwind::WalkResult;

constexpr uint64_t kModuleSize = 0x20000;
constexpr size_t kWords = 96;
constexpr uint64_t kEntry = 0x1f00;

// Values that lead somewhere more often than chance would have it.
uint64_t value(Cursor &cursor) {
    const uint8_t kind = cursor.u8();
    const uint64_t low = cursor.u16();
    switch (kind % 8) {
    case 0:
    case 1:
    case 2:
        return kModule + low;
    case 3:
    case 4:
        return kStack + low % (kWords * 8 + 64);
    case 5:
        return kJit + low % 0x1000;
    case 6:
        return (kind & 0x80) != 0 ? kUprobes : low;
    default:
        return low << 48 | cursor.u32();
    }
}

struct Walked {
    WalkResult result;
    std::array<dwunw_frame, 40> frames{};
};

class Target {
  public:
    explicit Target(Cursor &cursor) {
        const uint8_t flags = cursor.u8();
        cfi_only_ = (flags & 1) != 0;
        cut_ = cursor.u8();
        for (uint64_t address = kJit; const uint8_t byte : fuzz::take(cursor, cursor.u8())) {
            space_.set_code(address, {byte});
            space_.set_code(kModule + 0x100 + address - kJit, {byte});
            ++address;
        }
        const auto cfi = fuzz::hostile_cfi(cursor, 16, 0x1000, kModuleSize);
        space_.add_module(kModule, kModuleSize, cfi.section, kEntry);
        testing::add_code_without_module(space_);
        for (size_t reg = 0; reg < dwarf::kTrackedRegisters; ++reg) {
            const uint64_t content = value(cursor);
            if ((flags & 2) == 0 || reg == testing::RSP || reg == testing::RIP)
                registers_.set(reg, content);
        }
        for (size_t i = 0; i < kWords && !cursor.at_end(); ++i)
            stack_.set(kStack + 8 * i, value(cursor));
        for (size_t i = 0; i < 2; ++i)
            pending_.push_back({kStack + 8 * i * cut_, kModule + 0x1010});
    }

    void run() {
        const Walked cold = walk(stack_.bytes());
        check_frames(cold);
        testing::in_every_state(space_, [&](const char *how) { same(cold, walk(stack_.bytes()), how); });

        const size_t size = stack_.bytes() - std::min<size_t>(stack_.bytes(), cut_);
        const Walked cut = walk(size);
        space_.rules = nullptr;
        same(cut, walk(size), "cut, cold");
        if (registers_[testing::RSP] <= kStack + size)
            check_prefix(cold, cut);
    }

  private:
    Walked walk(size_t slice) {
        Walked walked;
        const auto memory = stack_.memory(slice);
        walked.result =
            unwind::walk({space_, testing::x86_64(), registers_, memory, pending_, walked.frames, cfi_only_});
        return walked;
    }

    void check_frames(const Walked &walked) {
        require(walked.result.written >= 1 && walked.result.written <= walked.frames.size(), "a walk has frames");
        for (size_t i = 1; i < walked.result.written; ++i) {
            const dwunw_frame &frame = walked.frames[i];
            const bool exact = (frame.flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0;
            const bool code = space_.find(RunAddr(exact ? frame.pc : frame.pc - 1)).kind != unwind::CodeKind::kUnmapped;
            const bool flagged =
                exact && (frame.flags & DWUNW_FRAME_FLAG_NO_CODE) != 0 && frame.source == DWUNW_SOURCE_SIGNAL;
            require(code || flagged, "a frame lies in mapped code");
            require(frame.source != DWUNW_SOURCE_REGISTERS, "only frame 0 is the registers'");
            require(!cfi_only_ || frame.source != DWUNW_SOURCE_FRAME_POINTER, "CFI only is CFI only");
        }
    }
    static void same(const Walked &a, const Walked &b, const char *how) {
        if (const char *what = testing::difference(a.result, a.frames, b.result, b.frames); what != nullptr) {
            std::fprintf(stderr, "walked otherwise (%s): %s differs\n", how, what);
            require(false, "a walk is the cold one, in every state");
        }
    }
    static void check_prefix(const Walked &whole, const Walked &cut) {
        require(cut.result.written <= whole.result.written, "a cut slice has no frames of its own");
        for (size_t i = 0; i < cut.result.written; ++i)
            require(cut.frames[i].pc == whole.frames[i].pc && cut.frames[i].sp == whole.frames[i].sp,
                    "a cut slice has the whole one's frames");
        require(cut.result.written == whole.result.written || cut.result.status == DWUNW_ERR_SLICE_EXHAUSTED,
                "a cut slice that ends earlier ends for the cut");
    }

    FakeSpace space_;
    FakeStack stack_{kStack, kWords};
    unwind::Registers registers_;
    std::vector<dwunw_pending_return> pending_;
    bool cfi_only_ = false;
    size_t cut_ = 0;
};

} // namespace
} // namespace dwunw

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    dwunw::Cursor cursor({data, size});
    dwunw::Target(cursor).run();
    return 0;
}
