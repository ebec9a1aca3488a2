// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "symbolize/symbol_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <tuple>

namespace dwunw {
namespace {

using Found = std::optional<uint32_t>;

SymbolRange sized(uint64_t start, uint64_t size, SymbolBinding binding = SymbolBinding::kGlobal) {
    return {LinkAddr(start), size, LinkAddr(start), binding};
}
SymbolRange label(uint64_t start, uint64_t section_end, SymbolBinding binding = SymbolBinding::kGlobal) {
    return {LinkAddr(start), 0, LinkAddr(section_end), binding};
}

TEST(SymbolIndex, AnEmptyIndexFindsNothing) {
    EXPECT_EQ(SymbolIndex().find(LinkAddr(0)), std::nullopt);
    EXPECT_EQ(SymbolIndex(std::vector<SymbolRange>{}).find(LinkAddr(42)), std::nullopt);
}

TEST(SymbolIndex, HalfOpenRangesAndGaps) {
    const SymbolIndex index({sized(0x100, 0x10), sized(0x120, 0x10)});
    EXPECT_EQ(index.find(LinkAddr(0xff)), std::nullopt);
    EXPECT_EQ(index.find(LinkAddr(0x100)), Found(0));
    EXPECT_EQ(index.find(LinkAddr(0x10f)), Found(0));
    EXPECT_EQ(index.find(LinkAddr(0x110)), std::nullopt);
    EXPECT_EQ(index.find(LinkAddr(0x12f)), Found(1));
    EXPECT_EQ(index.find(LinkAddr(0x130)), std::nullopt);
}

TEST(SymbolIndex, TheInnermostOfNestedSymbols) {
    const SymbolIndex index({sized(0x100, 0x100), sized(0x140, 0x20, SymbolBinding::kLocal)});
    EXPECT_EQ(index.find(LinkAddr(0x13f)), Found(0));
    EXPECT_EQ(index.find(LinkAddr(0x140)), Found(1));
    EXPECT_EQ(index.find(LinkAddr(0x160)), Found(0));
}

TEST(SymbolIndex, TheStrongestOfAliases) {
    const SymbolIndex index({sized(0x100, 8, SymbolBinding::kLocal), sized(0x100, 8, SymbolBinding::kGlobal),
                             sized(0x100, 8, SymbolBinding::kGlobal), sized(0x100, 8, SymbolBinding::kWeak)});
    EXPECT_EQ(index.find(LinkAddr(0x104)), Found(1));
}

TEST(SymbolIndex, LabelsReachToTheNextSymbolOrTheirSectionsEnd) {
    const SymbolIndex index({label(0x100, 0x200), label(0x140, 0x200), sized(0x180, 0x10)});
    EXPECT_EQ(index.find(LinkAddr(0x13f)), Found(0));
    EXPECT_EQ(index.find(LinkAddr(0x17f)), Found(1));
    EXPECT_EQ(index.find(LinkAddr(0x180)), Found(2));
    EXPECT_EQ(index.find(LinkAddr(0x190)), std::nullopt);
    EXPECT_EQ(SymbolIndex({label(0x100, 0x110)}).find(LinkAddr(0x110)), std::nullopt);
}

TEST(SymbolIndex, ALabelInsideASizedSymbolIsIgnored) {
    const SymbolIndex index({sized(0x100, 0x40), label(0x120, 0x200)});
    EXPECT_EQ(index.find(LinkAddr(0x130)), Found(0));
    EXPECT_EQ(index.find(LinkAddr(0x150)), std::nullopt);
}

TEST(SymbolIndex, SizesThatWrapEndAtTheTop) {
    const SymbolIndex index({sized(0x100, std::numeric_limits<uint64_t>::max())});
    EXPECT_EQ(index.find(LinkAddr(0x100)), Found(0));
    EXPECT_EQ(index.find(LinkAddr(std::numeric_limits<uint64_t>::max() - 1)), Found(0));
    EXPECT_EQ(index.find(LinkAddr(0xff)), std::nullopt);
}

// The header's rule, applied to every symbol.
Found find_slowly(const std::vector<SymbolRange> &symbols, LinkAddr address) {
    const auto holds = [](const SymbolRange &s, LinkAddr a) { return s.start <= a && a - s.start < s.size; };
    Found best;
    const auto prefer = [&](uint32_t i) {
        const auto rank = [&](uint32_t k) {
            return std::tuple(symbols[k].start, symbols[k].binding, ~symbols[k].size);
        };
        if (!best || rank(i) > rank(*best))
            best = i;
    };
    for (uint32_t i = 0; i < symbols.size(); i++) {
        if (holds(symbols[i], address))
            prefer(i);
    }
    if (best)
        return best;

    LinkAddr nearest;
    for (const SymbolRange &symbol : symbols) {
        if (symbol.start <= address)
            nearest = std::max(nearest, symbol.start);
    }
    for (uint32_t i = 0; i < symbols.size(); i++) {
        const bool reached = std::any_of(symbols.begin(), symbols.end(),
                                         [&](const auto &other) { return holds(other, symbols[i].start); });
        if (symbols[i].start == nearest && symbols[i].size == 0 && address < symbols[i].section_end && !reached)
            prefer(i);
    }
    return best;
}

TEST(SymbolIndex, AgreesWithTheRuleOnRandomSymbols) {
    std::mt19937 random(20240607);
    const auto below = [&](uint32_t limit) { return std::uniform_int_distribution<uint32_t>(0, limit - 1)(random); };
    for (int round = 0; round < 400; round++) {
        std::vector<SymbolRange> symbols(1 + below(24));
        for (SymbolRange &symbol : symbols) {
            symbol.start = LinkAddr(below(100));
            symbol.size = below(3) == 0 ? 0 : 1 + below(40);
            symbol.section_end = LinkAddr(90);
            symbol.binding = static_cast<SymbolBinding>(below(3));
        }
        const SymbolIndex index(symbols);
        for (uint64_t address = 0; address < 160; address++)
            ASSERT_EQ(index.find(LinkAddr(address)), find_slowly(symbols, LinkAddr(address)))
                << "round " << round << ", address " << address;
    }
}

} // namespace
} // namespace dwunw
