// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Pc → rule, for the pcs that stacks go through again and again:
//
//     pc 0x55a0c4e53a63  →  CFA = SP + 0x20, FP = [CFA − 0x10];  place 7 of generation 12;  a call is before the pc
//
// A lookup takes one multiplication and one load. The cache holds only the rules that nearly all code has, each in one
// word:
//
//     CFA = SP + n,  FP + n  or another register + n;   RA = [CFA − r];   FP = FP  or  [CFA − m]
//
// with r = arch::selected::return_distance(m), which is 8 on x86-64; and the root (RA undefined), and the answer that a
// file has no rules there but code with a frame pointer. All other rules are looked up each time. An entry also has the
// pc's place (the mapping's number in a snapshot of the process's map), that snapshot's generation, and two facts about
// the code: whether a call is before the pc, and whether a frame pointer is set up there. An entry of another
// generation does not match, so a new map empties the cache by its new number.
//
// Two more tables: frames whose register has the caller's value although no rule mentions it (step.h, is_unwritten()),
// two words each; and, for code of files without CFI, whether a call can end at an address, one word each. CodeAnswers
// has everything else that is known of such code.
//
// An entry is two words, written and read without a lock. The first word is stored combined with a hash of the second.
// If a reader gets two words of different entries, the key does not match.
//
// Proved by tests/unit/unwind_rule_cache_test (every rule that fits comes back unchanged; threads write and read) and
// by tests/unit/unwind_walk_test, which walks everything cold and warm.
#pragma once

#include "arch/selected.h"
#include "base/address.h"
#include "unwind/code_answers.h"
#include "unwind/rule.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

namespace dwunw::unwind {

// A rule in one word, and the place of its pc.
class PackedRule {
  public:
    static constexpr uint32_t kMaxPlace = 0xffff;

    PackedRule() = default;
    // nullopt: the rule is not one of those above.
    static std::optional<PackedRule> pack(const Rule &rule, const arch::Arch &arch, uint32_t place);

    // For code without CFI that a frame-pointer step leaves: CFA = FP + 16; FP = [CFA − 16]. The walk checks this step
    // like step_by_code().
    static std::optional<PackedRule> without_cfi(uint32_t place, bool frame_is_set_up);

    bool is_root() const { return (word_ & (kRoot | kFromFp)) == kRoot; }
    bool is_without_cfi() const { return (word_ & (kRoot | kFromFp)) == (kRoot | kFromFp); }
    bool cfa_from_other() const { return (word_ & (kRoot | kFromFp | kFromOther)) == kFromOther; }
    // The CFA's register, if it is neither SP nor FP.
    uint8_t cfa_register() const { return static_cast<uint8_t>(word_ >> kOtherShift & kOtherMask); }
    uint64_t offset_from_other() const { return (word_ >> kCfaShift & kOtherOffsetMask) * 8; }
    bool cfa_from_fp() const { return (word_ & kFromFp) != 0; }
    uint64_t cfa_offset() const { return (word_ >> kCfaShift & kCfaMask) * 8; }
    // The distance from the CFA down to the saved FP; 0: FP keeps its value.
    uint64_t fp_distance() const { return (word_ >> kFpShift & kFpMask) * 8; }
    // The distance from the CFA down to the return address.
    uint64_t return_distance() const { return arch::selected::return_distance(fp_distance()); }
    // Without CFI: true if the code proves that FP is the function's own; false if that is so only if no return address
    // lies between SP and FP.
    bool frame_is_set_up() const { return (word_ & kFrameIsSetUp) != 0; }
    // Whether it is known that a call is before the pc.
    bool is_after_call() const { return (word_ & kAfterCall) != 0; }
    void set_after_call() { word_ |= kAfterCall; }
    uint32_t place() const { return static_cast<uint32_t>(word_ >> kPlaceShift & kMaxPlace); }

    friend class RuleCache;

  private:
    explicit PackedRule(uint64_t word) : word_(word) {}

    static constexpr uint64_t kRoot = 1;
    static constexpr uint64_t kFromFp = 2;
    static constexpr unsigned kCfaShift = 2;
    static constexpr uint64_t kCfaMask = (1u << 18) - 1;
    static constexpr unsigned kFpShift = 20;
    static constexpr uint64_t kFpMask = (1u << 13) - 1;
    static constexpr unsigned kPlaceShift = 33;
    static constexpr uint64_t kAfterCall = uint64_t{1} << 49;
    static constexpr uint64_t kFrameIsSetUp = uint64_t{1} << 50; // without CFI
    static constexpr uint64_t kFromOther = kFrameIsSetUp;        // with CFI
    // The register's number takes the upper bits of the CFA's offset.
    static constexpr unsigned kOtherShift = kFpShift - arch::selected::kRegisterBits;
    static constexpr uint64_t kOtherMask = (1u << arch::selected::kRegisterBits) - 1;
    static constexpr uint64_t kOtherOffsetMask = (1u << (kOtherShift - kCfaShift)) - 1;
    static constexpr unsigned kBits = 51; // RuleCache uses the rest

    uint64_t word_ = 0;
};

class RuleCache {
    static constexpr unsigned kPcBits = arch::selected::kAddressBits;
    static constexpr unsigned kLowGenerationBits = 63 - kPcBits;
    static constexpr unsigned kHighGenerationBits = 64 - kPcBits - arch::selected::kRegisterBits;

  public:
    // Generations count from 1 and wrap around after 2^29 (x86-64). By then, the entries of the first ones are gone.
    static constexpr unsigned kGenerationBits = kLowGenerationBits + kHighGenerationBits;

    std::optional<PackedRule> find(CodeAddr pc, uint64_t generation) const {
        if (is_wide(pc.pc()))
            return std::nullopt;
        const Entry &entry = entries_[index(pc)];
        const uint64_t rule = entry.rule.load(std::memory_order_relaxed);
        const uint64_t key = entry.key.load(std::memory_order_relaxed);
        if ((key ^ mix(rule)) != key_of(pc, generation) || rule >> PackedRule::kBits != high(generation))
            return std::nullopt;
        return PackedRule(rule & ((uint64_t{1} << PackedRule::kBits) - 1));
    }
    void insert(CodeAddr pc, uint64_t generation, PackedRule packed) {
        if (is_wide(pc.pc()))
            return;
        Entry &entry = entries_[index(pc)];
        const uint64_t rule = packed.word_ | high(generation) << PackedRule::kBits;
        entry.rule.store(rule, std::memory_order_relaxed);
        entry.key.store(key_of(pc, generation) ^ mix(rule), std::memory_order_relaxed);
    }

    // Whether a call can end at `address`; nullopt: not remembered.
    std::optional<bool> follows_call(RunAddr address, uint64_t generation) const {
        if (is_wide(address))
            return std::nullopt;
        const uint64_t mixed = mix_address(address);
        const uint64_t word = calls_[mixed >> kCallKeyBits].load(std::memory_order_relaxed);
        if ((word ^ call_word(mixed, generation, false)) > 1)
            return std::nullopt;
        return (word & 1) != 0;
    }
    void remember_call(RunAddr address, uint64_t generation, bool follows) {
        if (is_wide(address))
            return;
        const uint64_t mixed = mix_address(address);
        calls_[mixed >> kCallKeyBits].store(call_word(mixed, generation, follows), std::memory_order_relaxed);
    }

    // Whether register `reg` in the frame at `inner` has the value that it has in the caller, at `outer`:
    // is_unwritten().
    bool is_unwritten(RunAddr inner, RunAddr outer, uint8_t reg, uint64_t generation) const {
        if (is_wide(inner) || is_wide(outer))
            return false;
        const Entry &entry = unwritten_[unwritten_index(inner, outer)];
        const uint64_t word = entry.rule.load(std::memory_order_relaxed);
        const uint64_t key = entry.key.load(std::memory_order_relaxed);
        return word == unwritten_word(outer, reg, generation) &&
               (key ^ mix(word)) == key_of(CodeAddr::instruction(inner), generation);
    }
    void remember_unwritten(RunAddr inner, RunAddr outer, uint8_t reg, uint64_t generation) {
        if (is_wide(inner) || is_wide(outer))
            return;
        Entry &entry = unwritten_[unwritten_index(inner, outer)];
        const uint64_t word = unwritten_word(outer, reg, generation);
        entry.rule.store(word, std::memory_order_relaxed);
        entry.key.store(key_of(CodeAddr::instruction(inner), generation) ^ mix(word), std::memory_order_relaxed);
    }

    // Facts about the code of files without CFI.
    CodeAnswers &answers() { return answers_; }

  private:
    static constexpr unsigned kIndexBits = 12;
    static_assert(PackedRule::kBits + kHighGenerationBits <= 64);

    struct alignas(16) Entry {
        std::atomic<uint64_t> key = 0;
        std::atomic<uint64_t> rule = 0;
    };

    // The cache does not hold wider addresses, because their keys would equal those of other addresses.
    static bool is_wide(RunAddr address) { return address.value >> kPcBits != 0; }
    static uint64_t key_of(CodeAddr pc, uint64_t generation) {
        return pc.pc().value << (1 + kLowGenerationBits) | uint64_t{pc.is_return_address()} << kLowGenerationBits |
               (generation & ((1u << kLowGenerationBits) - 1));
    }
    static uint64_t high(uint64_t generation) {
        return (generation & ((uint64_t{1} << kGenerationBits) - 1)) >> kLowGenerationBits;
    }
    static uint64_t mix(uint64_t word) {
        word = (word ^ word >> 32) * 0x9e3779b97f4a7c15u;
        return word ^ word >> 29;
    }
    static size_t index(CodeAddr pc) { return pc.pc().value * 0x9e3779b97f4a7c15u >> (64 - kIndexBits); }

    static constexpr unsigned kUnwrittenIndexBits = 8;
    static size_t unwritten_index(RunAddr inner, RunAddr outer) {
        return mix(inner.value ^ outer.value << 20) >> (64 - kUnwrittenIndexBits);
    }
    static uint64_t unwritten_word(RunAddr outer, uint8_t reg, uint64_t generation) {
        return outer.value << (64 - kPcBits) | uint64_t{reg} << kHighGenerationBits | high(generation);
    }

    // An odd factor maps addresses one to one. The upper bits of the product are the index, so the entry needs only the
    // other bits and has room for the generation.
    static constexpr unsigned kCallIndexBits = 9;
    static constexpr unsigned kCallKeyBits = kPcBits - kCallIndexBits;
    static uint64_t mix_address(RunAddr address) {
        return address.value * 0x9e3779b97f4a7c15u & ((uint64_t{1} << kPcBits) - 1);
    }
    static uint64_t call_word(uint64_t mixed, uint64_t generation, bool follows) {
        return generation << (kCallKeyBits + 1) | (mixed & ((uint64_t{1} << kCallKeyBits) - 1)) << 1 |
               uint64_t{follows};
    }

    std::array<Entry, size_t{1} << kIndexBits> entries_;
    std::array<std::atomic<uint64_t>, size_t{1} << kCallIndexBits> calls_{};
    CodeAnswers answers_;
    std::array<Entry, size_t{1} << kUnwrittenIndexBits> unwritten_;
};

} // namespace dwunw::unwind
