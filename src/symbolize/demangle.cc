// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Bounds the work of __cxa_demangle, which has no limit on its output and cannot be stopped. The output grows
// exponentially with the references in a name: each S_ or T_ may repeat everything before it (230 bytes make 140 MB).
// So the number of references is limited: k of them multiply a name's length by at most 3^(k/3) (a component that
// repeats the one before three times). Of 155,000 names in node, LLVM and clang, 5 have more than 32. Proved by
// tests/unit/symbolize_demangle_test.cc.
#include "symbolize/demangle.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string_view>

namespace dwunw {
namespace {

constexpr size_t kMaxMangled = 1024; // libstdc++ itself refuses longer ones
constexpr size_t kMaxReferences = 32;
constexpr size_t kMaxDemangled = 64 * 1024;

bool is_seq_id(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); }

// Counts everything that may be a <substitution> "S…_" or a <template-param> "T…_", also inside identifiers: counting
// too many is safe.
size_t count_references(std::string_view name) {
    size_t count = 0;
    for (size_t i = 0; i < name.size(); i++) {
        if (name[i] != 'S' && name[i] != 'T')
            continue;
        size_t end = i + 1;
        while (end < name.size() && is_seq_id(name[end]))
            end++;
        count += end < name.size() && name[end] == '_';
    }
    return count;
}

} // namespace

std::string display_name(const char *raw_name) {
    const std::string_view raw(raw_name);
    // The mangled name of an operator has no '@'. A name that begins with '@' has no part before its version.
    const size_t at = raw.find('@');
    std::string name(at == 0 ? raw : raw.substr(0, at));

    if (!name.starts_with("_Z") || name.size() > kMaxMangled || count_references(name) > kMaxReferences)
        return name;
    int status = 0;
    const std::unique_ptr<char, void (*)(void *)> demangled(
        abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
    if (status != 0 || !demangled)
        return name;
    std::string_view text(demangled.get());
    return text.size() > kMaxDemangled ? name : std::string(text);
}

} // namespace dwunw
