// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares a module's code with its rows: what is read of the code, what tables and single FDEs make of it, and walks
// through a function that switches stacks without a row that says so.
#include "unwind/lost_sp.h"

#include "support/fake_space.h"
#include "unwind/walk.h"

#include <cstring>

namespace dwunw::unwind {
namespace {

using testing::Bytes;
using testing::FakeSpace;
using testing::FakeStack;
using testing::FrameSection;
using testing::registers;
using testing::x86_64;
using enum testing::Reg;

constexpr uint64_t kCode = 0x1000;

// Code from kCode on, which a test can cut short.
class FakeCode {
  public:
    explicit FakeCode(size_t size) : bytes_(size, 0x90) {}
    FakeCode &put(uint64_t address, std::initializer_list<uint8_t> code) {
        std::copy(code.begin(), code.end(), bytes_.begin() + static_cast<ptrdiff_t>(address - kCode));
        return *this;
    }
    ReadCode reader() {
        return [this](LinkAddr address, std::span<uint8_t> buffer) {
            ++reads;
            const uint64_t offset = address.value - kCode;
            if (offset >= std::min(cut, bytes_.size()))
                return size_t{0};
            const size_t got = std::min<uint64_t>(buffer.size(), std::min(bytes_.size(), cut) - offset);
            std::memcpy(buffer.data(), bytes_.data() + offset, got);
            return got;
        };
    }
    size_t reads = 0;
    size_t cut = SIZE_MAX;

  private:
    std::vector<uint8_t> bytes_;
};

constexpr std::initializer_list<uint8_t> kSwitch = {0x48, 0x8b, 0x66, 0x38}; // mov 0x38(%rsi),%rsp
const std::vector<arch::SpRow> kAlways8 = {{0, true, 8}};

TEST(LostSpOfAModule, ReplacementsAcrossPieces) {
    constexpr size_t kSize = size_t{1} << 20;
    for (const uint64_t distance : {0x40000 - 3, 0x40000 - 2, 0x40000 - 1, 0x40000, 0x60000}) {
        FakeCode code(kSize);
        code.put(kCode + distance, kSwitch);
        const ReadCode read = code.reader();
        for (const auto order : {LostSp::Order::kAscending, LostSp::Order::kOneFde}) {
            LostSp lost_sp(read, x86_64(), order);
            EXPECT_FALSE(lost_sp.may_replace(LinkAddr(kCode), LinkAddr(kCode + distance)));
            EXPECT_TRUE(lost_sp.may_replace(LinkAddr(kCode + distance), LinkAddr(kCode + kSize)));
            EXPECT_FALSE(lost_sp.may_replace(LinkAddr(kCode + distance + 4), LinkAddr(kCode + kSize)));
        }
        const LinkAddr end(kCode + LostSp::kMaxFollowed);
        LostSp whole(read, x86_64(), LostSp::Order::kOneFde);
        ASSERT_TRUE(whole.may_replace(LinkAddr(kCode), end));
        const auto lost = whole.find(LinkAddr(kCode), end, kAlways8);
        ASSERT_EQ(lost.size(), 1u);
        EXPECT_EQ(lost[0].start, distance + 4);
        EXPECT_EQ(lost[0].end, LostSp::kMaxFollowed);
    }
}

TEST(LostSpOfAModule, ManyFdesAreReadInFewPieces) {
    FakeCode code(size_t{1} << 20);
    const ReadCode read = code.reader();
    LostSp lost_sp(read, x86_64(), LostSp::Order::kAscending);
    for (uint64_t start = kCode; start < kCode + (1 << 20); start += 64)
        EXPECT_FALSE(lost_sp.may_replace(LinkAddr(start), LinkAddr(start + 48)));
    EXPECT_LE(code.reads, 5u);
}

TEST(LostSpOfAModule, CodeThatCannotBeRead) {
    FakeCode code(0x1000);
    code.put(kCode + 0x20, kSwitch).put(kCode + 0x820, kSwitch);
    code.cut = 0x800;
    const ReadCode read = code.reader();
    LostSp lost_sp(read, x86_64(), LostSp::Order::kAscending);
    EXPECT_TRUE(lost_sp.may_replace(LinkAddr(kCode), LinkAddr(kCode + 0x100)));
    EXPECT_FALSE(lost_sp.may_replace(LinkAddr(kCode + 0x800), LinkAddr(kCode + 0x900)));
    EXPECT_FALSE(lost_sp.may_replace(LinkAddr(kCode + 0x900), LinkAddr(kCode + 0x100000)));
    const ReadCode none;
    LostSp without(none, x86_64(), LostSp::Order::kAscending);
    EXPECT_FALSE(without.may_replace(LinkAddr(kCode), LinkAddr(kCode + 0x100)));
    // It could be read once, and then no more.
    LostSp again(read, x86_64(), LostSp::Order::kOneFde);
    ASSERT_TRUE(again.may_replace(LinkAddr(kCode), LinkAddr(kCode + 0x100)));
    code.cut = 0;
    EXPECT_TRUE(again.find(LinkAddr(kCode), LinkAddr(kCode + 0x100), kAlways8).empty());
}

TEST(LostSpOfAModule, AFunctionTooLongToBeFollowed) {
    constexpr size_t kSize = LostSp::kMaxFollowed + 1;
    FakeCode code(kSize);
    code.put(kCode + 0x5000, kSwitch);
    const ReadCode read = code.reader();
    LostSp lost_sp(read, x86_64(), LostSp::Order::kOneFde);
    ASSERT_TRUE(lost_sp.may_replace(LinkAddr(kCode), LinkAddr(kCode + kSize)));
    const auto lost = lost_sp.find(LinkAddr(kCode), LinkAddr(kCode + kSize), kAlways8);
    ASSERT_EQ(lost.size(), 1u);
    EXPECT_EQ(lost[0].start, 0x5000u);
    EXPECT_EQ(lost[0].end, kSize);
}

TEST(LostSpOfAModule, AFunctionLargerThanAnyRealOne) {
    FakeCode code(0x1000);
    const ReadCode read = code.reader();
    LostSp lost_sp(read, x86_64(), LostSp::Order::kOneFde);
    const LinkAddr end(kCode + LostSp::kMaxLookedAt + 1);
    EXPECT_FALSE(lost_sp.may_replace(LinkAddr(kCode), end - 1));
    ASSERT_TRUE(lost_sp.may_replace(LinkAddr(kCode), end));
    const auto lost = lost_sp.find(LinkAddr(kCode), end, kAlways8);
    ASSERT_EQ(lost.size(), 1u);
    EXPECT_EQ(lost[0].start, 0u);
    EXPECT_EQ(lost[0].end, LostSp::kMaxLookedAt + 1);
}

// Functions, by link address.
enum Function : uint64_t {
    kPlain = 0x1000,     // CFA = rsp+8
    kSwitches = 0x1100,  // CFA = rsp+8, and behind its first call another stack
    kSaysSo = 0x1200,    // the same code, with rows: CFA = rbp+8 behind the switch
    kByRbx = 0x1300,     // CFA = rbx+0: the interpreter's
    kTwoRows = 0x1400,   // CFA = rsp+8; push; CFA = rsp+16; a switch; pop; CFA = rsp+8
    kRoot = 0x1500,      // the return address is undefined
    kSavesRbx = 0x1600,  // CFA = rsp+24, rbx at CFA−16
    kUndefined = 0x1700, // a switch, and the return address is undefined
    kFunctionsEnd = 0x1800,
};
// call *%rax; mov 0x38(%rsi),%rsp; call *%rax; ret
constexpr std::initializer_list<uint8_t> kSwitchingCode = {0xff, 0xd0, 0x48, 0x8b, 0x66, 0x38, 0xff, 0xd0, 0xc3};
constexpr uint64_t kBeforeSwitch = 2; // behind the first call
constexpr uint64_t kBehindCall = 8;   // behind the call on the other stack
constexpr uint64_t kAtReturn = 8;

class StackSwitch : public ::testing::Test {
  protected:
    StackSwitch() : code_(0x1000) {
        section_ = FrameSection();
        const size_t cie = section_.cie();
        const auto undefined_ra = Bytes({dwarf::DW_CFA_undefined, RIP});
        section_.fde(cie, kPlain, 0x100);
        section_.fde(cie, kSwitches, 0x100);
        section_.fde(cie, kSaysSo, 0x100, Bytes().advance(2).def_cfa(RBP, 8).advance(6).def_cfa(RSP, 8));
        section_.fde(cie, kByRbx, 0x100, Bytes().def_cfa(RBX, 0));
        section_.fde(
            cie, kTwoRows, 0x100,
            Bytes().advance(1).def_cfa_offset(16).advance(7).def_cfa_offset(8).advance(0x20).def_cfa_offset(16));
        section_.fde(cie, kRoot, 0x100, undefined_ra);
        section_.fde(cie, kSavesRbx, 0x100, Bytes().def_cfa_offset(24).offset(RBX, 2));
        section_.fde(cie, kUndefined, 0x100, undefined_ra);
        for (const uint64_t function : {kSwitches, kSaysSo, kUndefined})
            code_.put(function, kSwitchingCode);
        code_.put(kTwoRows, {0x53, 0x48, 0x8b, 0x66, 0x38, 0xff, 0xd0, 0x5b, 0xc3}); // push; mov; call; pop; ret
    }

    std::unique_ptr<ModuleCfi> module(bool with_code) {
        auto built = ModuleCfi::build(input(with_code));
        EXPECT_TRUE(built);
        return std::move(*built);
    }
    CfiInput input(bool with_code) {
        CfiInput input;
        input.eh_frame = SectionBytes{section_.data(), LinkAddr(0x100000)};
        input.machine = EM_X86_64;
        if (with_code)
            input.read_code = code_.reader();
        return input;
    }

    FrameSection section_;
    FakeCode code_;
};

bool is_lost(const ModuleCfi &module, uint64_t address) {
    const auto found = module.rule_at(LinkAddr(address));
    EXPECT_EQ(found.status, DWUNW_OK) << std::hex << address;
    return found.rule.cfa_kind == CfaKind::kLost;
}

TEST_F(StackSwitch, RulesBehindASwitchAreLost) {
    const auto cfi = module(true);
    for (const bool compiled : {false, true}) {
        SCOPED_TRACE(compiled);
        if (compiled) {
            ASSERT_TRUE(cfi->compile());
        }
        for (uint64_t offset = 0; offset < 16; ++offset) {
            EXPECT_FALSE(is_lost(*cfi, kPlain + offset));
            EXPECT_EQ(is_lost(*cfi, kSwitches + offset), offset >= 6 && offset < kAtReturn) << offset;
            EXPECT_FALSE(is_lost(*cfi, kSaysSo + offset));
            EXPECT_FALSE(is_lost(*cfi, kUndefined + offset));
            EXPECT_EQ(is_lost(*cfi, kTwoRows + offset), offset >= 5 && offset < 8) << offset;
        }
    }
}

// Each answer of a single FDE holds as far as it says, and a table says the same everywhere.
TEST_F(StackSwitch, ATableAndAnFdeSayTheSame) {
    const auto single = module(true);
    const auto compiled = module(true);
    ASSERT_TRUE(compiled->compile());
    for (uint64_t at = kPlain - 1; at < kFunctionsEnd; ++at) {
        const auto by_fde = single->rule_at(LinkAddr(at));
        const auto by_table = compiled->rule_at(LinkAddr(at));
        ASSERT_EQ(by_fde.status, by_table.status) << std::hex << at;
        ASSERT_EQ(by_fde.rule, by_table.rule) << std::hex << at;
        for (const auto *answer : {&by_fde, &by_table}) {
            const LinkAddr last = std::min(answer->end, LinkAddr(kFunctionsEnd)) - 1;
            ASSERT_EQ(compiled->rule_at(last).rule, answer->rule) << std::hex << at;
        }
    }
}

TEST_F(StackSwitch, WithoutCodeATableHasTheFilesRows) {
    const auto cfi = module(false);
    for (const bool compiled : {false, true}) {
        if (compiled) {
            ASSERT_TRUE(cfi->compile());
        }
        for (uint64_t at = kPlain; at < kFunctionsEnd; ++at)
            EXPECT_FALSE(is_lost(*cfi, at));
    }
}

constexpr uint64_t kModule = 0x400000;
constexpr uint64_t kStack = 0x7ff000;
constexpr uint64_t kSp = kStack + 128;

class StackSwitchWalk : public StackSwitch {
  protected:
    StackSwitchWalk() {
        space_.add_module(kModule, 0x3000, input(true));
        for (const uint64_t function : {kSwitches, kSaysSo})
            space_.set_code(at(function, 0), kSwitchingCode);
    }

    static uint64_t at(uint64_t function, uint64_t offset) { return kModule + function + offset; }

    // Cold, remembering, warm, and all that from tables.
    void expect(uint64_t pc, dwunw_status status, const std::vector<uint64_t> &pcs, bool interpreter = false) {
        const auto regs = registers({{RIP, pc}, {RSP, kSp}, {RBP, kSp + 64}, {RBX, kSp + 16}});
        const StackMemory memory = stack_.memory();
        for (const char *how : {"cold", "remembering", "warm", "from tables", "warm from tables"}) {
            SCOPED_TRACE(how);
            if (how == std::string_view("cold"))
                space_.rules = nullptr;
            else if (how == std::string_view("remembering"))
                space_.rules = std::make_unique<RuleCache>();
            if (how == std::string_view("from tables")) {
                space_.compile();
                ++space_.generation;
            }
            const WalkResult result = walk({space_, x86_64(), regs, memory, {}, frames_, false});
            EXPECT_EQ(result.status, status);
            EXPECT_EQ(result.used_interpreter, interpreter);
            std::vector<uint64_t> found;
            for (size_t i = 0; i < result.written; ++i)
                found.push_back(frames_[i].pc);
            EXPECT_EQ(found, pcs);
        }
    }

    FakeSpace space_;
    FakeStack stack_{kStack, 64};
    std::array<dwunw_frame, 16> frames_{};
};

// The words on the other stack look like return addresses, but no call pushed them.
TEST_F(StackSwitchWalk, EndsWhereTheStackWasSwitched) {
    stack_.set(kSp, at(kSwitches, kBehindCall)).set(kSp + 8, at(kPlain, 0x20)).set(kSp + 16, at(kRoot, 0x20));
    expect(at(kPlain, 0), DWUNW_ERR_STACK_SWITCHED, {at(kPlain, 0), at(kSwitches, kBehindCall)});
}

TEST_F(StackSwitchWalk, GoesOnBeforeTheSwitch) {
    stack_.set(kSp, at(kSwitches, kBeforeSwitch)).set(kSp + 8, at(kRoot, 0x20));
    expect(at(kPlain, 0), DWUNW_OK, {at(kPlain, 0), at(kSwitches, kBeforeSwitch), at(kRoot, 0x20)});
}

TEST_F(StackSwitchWalk, InnermostFramesEndWhereTheStackIsSwitched) {
    stack_.set(kSp, at(kRoot, 0x20));
    expect(at(kSwitches, 0), DWUNW_OK, {at(kSwitches, 0), at(kRoot, 0x20)});
    expect(at(kSwitches, 6), DWUNW_ERR_STACK_SWITCHED, {at(kSwitches, 6)});
    expect(at(kSwitches, kAtReturn), DWUNW_OK, {at(kSwitches, kAtReturn), at(kRoot, 0x20)});
}

// The interpreter reads the FDE itself, where no row says anything of the switch.
TEST_F(StackSwitchWalk, EndsThereForTheInterpreterToo) {
    stack_.set(kSp, at(kByRbx, 2)).set(kSp + 8, at(kSwitches, kBehindCall));
    stack_.set(kSp + 16, at(kPlain, 0x20)).set(kSp + 24, at(kRoot, 0x20));
    expect(at(kPlain, 0), DWUNW_ERR_STACK_SWITCHED, {at(kPlain, 0), at(kByRbx, 2), at(kSwitches, kBehindCall)}, true);
}

TEST_F(StackSwitchWalk, RowsThatSaySoAreFollowed) {
    stack_.set(kSp, at(kSaysSo, kBehindCall)).set(kSp + 64, at(kRoot, 0x20));
    expect(at(kPlain, 0), DWUNW_OK, {at(kPlain, 0), at(kSaysSo, kBehindCall), at(kRoot, 0x20)});
}

} // namespace
} // namespace dwunw::unwind
