// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "symbolize/demangle.h"

#include <gtest/gtest.h>

#include <string>

namespace dwunw {
namespace {

TEST(DisplayName, DemanglesItaniumNames) {
    EXPECT_EQ(display_name("_Z3addii"), "add(int, int)");
    EXPECT_EQ(display_name("_ZNSt6vectorIiSaIiEE9push_backERKi"),
              "std::vector<int, std::allocator<int> >::push_back(int const&)");
    EXPECT_EQ(display_name("_Znwm"), "operator new(unsigned long)");
}

TEST(DisplayName, LeavesOtherNames) {
    EXPECT_EQ(display_name("main"), "main");
    EXPECT_EQ(display_name(""), "");
    EXPECT_EQ(display_name("_Z"), "_Z");
    EXPECT_EQ(display_name("_Zthis is not a mangled name"), "_Zthis is not a mangled name");
    // __cxa_demangle alone would take this for the type "int".
    EXPECT_EQ(display_name("i"), "i");
}

TEST(DisplayName, LeavesOutTheSymbolVersion) {
    EXPECT_EQ(display_name("clock_nanosleep@GLIBC_2.2.5"), "clock_nanosleep");
    EXPECT_EQ(display_name("__libc_start_main@@GLIBC_2.34"), "__libc_start_main");
    EXPECT_EQ(display_name("_Znwm@@GLIBCXX_3.4"), "operator new(unsigned long)");
    EXPECT_EQ(display_name("@odd"), "@odd");
}

// A<int, int>, then A<the one before, the one before>, `levels` times: each level doubles the demangled name.
std::string doubling_name(int levels) {
    const auto substitution = [](int component) {
        if (component == 0)
            return std::string("S_");
        const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        std::string text;
        for (component--; component >= 36; component /= 36)
            text.insert(text.begin(), digits[component % 36]);
        return "S" + std::string(1, digits[component]) + text + "_";
    };
    std::string name = "_Z1f1AIiiE";
    for (int level = 1; level <= levels; level++)
        name += "S_I" + substitution(level) + substitution(level) + "E";
    return name;
}

TEST(DisplayName, DemanglesModerateSubstitution) {
    EXPECT_EQ(display_name(doubling_name(1).c_str()), "f(A<int, int>, A<A<int, int>, A<int, int> >)");
    EXPECT_GT(display_name(doubling_name(8).c_str()).size(), 1000u);
}

TEST(DisplayName, RefusesExponentialGrowth) {
    // 30 levels would be 36 GB; a test that gets it wrong does not come back.
    const std::string bomb = doubling_name(30);
    ASSERT_LT(bomb.size(), 400u);
    EXPECT_EQ(display_name(bomb.c_str()), bomb);
}

TEST(DisplayName, BoundsEveryAcceptedName) {
    for (int levels = 0; levels < 40; levels++)
        EXPECT_LE(display_name(doubling_name(levels).c_str()).size(), 64u * 1024) << levels << " levels";
}

TEST(DisplayName, RefusesDeepNesting) {
    const std::string deep = "_Z1f" + std::string(1000000, 'P') + "i";
    EXPECT_EQ(display_name(deep.c_str()), deep);
    const std::string nested = "_Z1f" + std::string(900, 'P') + "i";
    EXPECT_EQ(display_name(nested.c_str()), "f(int" + std::string(900, '*') + ")");
}

} // namespace
} // namespace dwunw
