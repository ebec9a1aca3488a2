// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The functions that allocate and free, by name, and what each one's arguments mean.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace dwunw_tool::memleak {

struct Function {
    std::string_view name;  // without the allocator's prefix
    uint64_t cookie;        // memleak/kernel_types.h
    unsigned int arguments; // the number that the probe reads
    bool returns;           // its return is probed, too
    bool throws;            // an exception may pass through it, so it gets no return probe
};

// malloc and its family, C23 included. Every allocator has them, perhaps with a prefix.
std::span<const Function> heap_functions();
// The forms of operator new and delete, by their mangled names.
std::span<const Function> cxx_operators();
// mmap, munmap and mremap.
std::span<const Function> mapping_functions();
// What leaves an allocator's call without a return.
std::span<const Function> jump_functions();

// The prefixes under which allocators export malloc's family. The first one is empty.
std::span<const std::string_view> known_prefixes();

} // namespace dwunw_tool::memleak
