// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The tables of allocating functions: each name is said once, and its words agree with the function's C or C++ form.
#include "memleak/functions.h"

#include "memleak/kernel_types.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cxxabi.h>
#include <set>
#include <string>
#include <vector>

namespace dwunw_tool::memleak {
namespace {

std::vector<Function> all() {
    std::vector<Function> functions;
    for (const auto table : {heap_functions(), cxx_operators(), mapping_functions(), jump_functions()})
        functions.insert(functions.end(), table.begin(), table.end());
    return functions;
}

const Function &named(std::string_view name) {
    static const std::vector<Function> functions = all();
    const auto found =
        std::find_if(functions.begin(), functions.end(), [&](const Function &f) { return f.name == name; });
    if (found == functions.end())
        std::abort();
    return *found;
}

std::string demangled(std::string_view name) {
    char *text = abi::__cxa_demangle(std::string(name).c_str(), nullptr, nullptr, nullptr);
    const std::string result = text != nullptr ? text : "";
    std::free(text);
    return result;
}

TEST(MemleakFunctions, EachNameIsThereOnce) {
    std::set<std::string_view> names;
    for (const Function &function : all())
        EXPECT_TRUE(names.insert(function.name).second) << function.name;
}

TEST(MemleakFunctions, TheProbeReadsNoArgumentThatIsNotCounted) {
    for (const Function &function : all()) {
        EXPECT_LE(function.arguments, 4u) << function.name;
        for (const uint64_t argument :
             {MEMLEAK_SIZE_ARGUMENT(function.cookie), MEMLEAK_FACTOR_ARGUMENT(function.cookie),
              MEMLEAK_POINTER_ARGUMENT(function.cookie)}) {
            EXPECT_LE(argument, function.arguments) << function.name;
            EXPECT_LE(argument, 3u) << function.name << ": the kernel half reads three";
        }
    }
}

TEST(MemleakFunctions, OnlyWhatGivesAnAnswerIsSeenToReturn) {
    for (const Function &function : all()) {
        const uint64_t operation = MEMLEAK_OPERATION(function.cookie);
        EXPECT_EQ(function.returns, operation != MEMLEAK_FREE && operation != MEMLEAK_JUMP) << function.name;
        EXPECT_TRUE(function.returns || !function.throws) << function.name;
    }
}

TEST(MemleakFunctions, ArgumentsAreThoseOfTheirDeclarations) {
    const uint64_t calloc = named("calloc").cookie; // calloc(n, size)
    EXPECT_EQ(MEMLEAK_OPERATION(calloc), unsigned{MEMLEAK_ALLOCATE});
    EXPECT_EQ(MEMLEAK_SIZE_ARGUMENT(calloc), 2u);
    EXPECT_EQ(MEMLEAK_FACTOR_ARGUMENT(calloc), 1u);
    const uint64_t array = named("reallocarray").cookie; // reallocarray(p, n, size)
    EXPECT_EQ(MEMLEAK_OPERATION(array), unsigned{MEMLEAK_REALLOCATE});
    EXPECT_EQ(MEMLEAK_POINTER_ARGUMENT(array), 1u);
    EXPECT_EQ(MEMLEAK_SIZE_ARGUMENT(array) * MEMLEAK_FACTOR_ARGUMENT(array), 6u);
    const uint64_t posix = named("posix_memalign").cookie; // posix_memalign(&p, alignment, size)
    EXPECT_EQ(MEMLEAK_OPERATION(posix), unsigned{MEMLEAK_ALLOCATE_INTO});
    EXPECT_EQ(MEMLEAK_POINTER_ARGUMENT(posix), 1u);
    EXPECT_EQ(MEMLEAK_SIZE_ARGUMENT(posix), 3u);
    for (const std::string_view aligned : {"aligned_alloc", "memalign"}) // (alignment, size)
        EXPECT_EQ(MEMLEAK_SIZE_ARGUMENT(named(aligned).cookie), 2u);
    const uint64_t unmap = named("munmap").cookie; // munmap(address, length)
    EXPECT_EQ(MEMLEAK_POINTER_ARGUMENT(unmap), 1u);
    EXPECT_EQ(MEMLEAK_SIZE_ARGUMENT(unmap), 2u);
    EXPECT_EQ(MEMLEAK_SIZE_ARGUMENT(named("mremap").cookie), 3u); // mremap(old, old length, length)
}

TEST(MemleakFunctions, TheOperatorsAreAllFormsOfNewAndDelete) {
    std::set<std::string> names;
    for (const Function &function : cxx_operators()) {
        const std::string name = demangled(function.name);
        names.insert(name);
        const bool is_array = name.find("[]") != std::string::npos;
        EXPECT_EQ(MEMLEAK_KIND(function.cookie), unsigned{is_array ? MEMLEAK_NEW_ARRAY : MEMLEAK_NEW}) << name;
        if (name.starts_with("operator new")) {
            EXPECT_EQ(MEMLEAK_OPERATION(function.cookie), unsigned{MEMLEAK_ALLOCATE}) << name;
            EXPECT_EQ(function.throws, name.find("nothrow") == std::string::npos) << name;
        } else {
            EXPECT_TRUE(name.starts_with("operator delete")) << name;
            EXPECT_EQ(MEMLEAK_OPERATION(function.cookie), unsigned{MEMLEAK_FREE}) << name;
            EXPECT_NE(function.cookie & MEMLEAK_CALLS_FREE, 0u) << name;
        }
    }
    std::set<std::string> forms;
    for (const std::string array : {"", "[]"}) {
        for (const std::string rest :
             {"", ", std::nothrow_t const&", ", std::align_val_t", ", std::align_val_t, std::nothrow_t const&"})
            forms.insert("operator new" + array + "(unsigned long" + rest + ")");
        for (const std::string rest :
             {"", ", unsigned long", ", std::nothrow_t const&", ", std::align_val_t",
              ", unsigned long, std::align_val_t", ", std::align_val_t, std::nothrow_t const&"})
            forms.insert("operator delete" + array + "(void*" + rest + ")");
    }
    EXPECT_EQ(names, forms);
}

TEST(MemleakFunctions, TheFirstPrefixIsEmptyAndNoneComesTwice) {
    const auto prefixes = known_prefixes();
    ASSERT_FALSE(prefixes.empty());
    EXPECT_EQ(prefixes.front(), "");
    EXPECT_EQ(std::set<std::string_view>(prefixes.begin(), prefixes.end()).size(), prefixes.size());
}

} // namespace
} // namespace dwunw_tool::memleak
