// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/functions.h"

#include "memleak/kernel_types.h"

#include <algorithm>

namespace dwunw_tool::memleak {
namespace {

constexpr Function allocate(std::string_view name, unsigned size, unsigned factor = 0) {
    return {name, MEMLEAK_COOKIE(MEMLEAK_ALLOCATE, size, factor, 0, MEMLEAK_HEAP), std::max(size, factor), true, false};
}

constexpr Function reallocate(std::string_view name, unsigned size, unsigned factor = 0) {
    return {name, MEMLEAK_COOKIE(MEMLEAK_REALLOCATE, size, factor, 1, MEMLEAK_HEAP), std::max(size, factor), true,
            false};
}

constexpr Function end(std::string_view name, memleak_kind kind = MEMLEAK_HEAP) {
    const uint64_t calls_free = kind == MEMLEAK_HEAP ? 0 : MEMLEAK_CALLS_FREE;
    return {name, MEMLEAK_COOKIE(MEMLEAK_FREE, 0, 0, 1, kind) | calls_free, 1, false, false};
}

// No exception leaves the nothrow forms.
constexpr Function construct(std::string_view name, memleak_kind kind) {
    const bool throws = !name.ends_with("nothrow_t");
    return {name, MEMLEAK_COOKIE(MEMLEAK_ALLOCATE, 1, 0, 0, kind), 1, true, throws};
}

constexpr Function kHeap[] = {
    allocate("malloc", 1),
    allocate("calloc", 2, 1),
    reallocate("realloc", 2),
    reallocate("reallocarray", 3, 2),
    {"posix_memalign", MEMLEAK_COOKIE(MEMLEAK_ALLOCATE_INTO, 3, 0, 1, MEMLEAK_HEAP), 3, true, false},
    allocate("aligned_alloc", 2),
    allocate("memalign", 2),
    allocate("valloc", 1),
    allocate("pvalloc", 1),
    end("free"),
    end("cfree"),
    end("free_sized"),
    end("free_aligned_sized"),
    // jemalloc's own interface.
    allocate("mallocx", 1),
    reallocate("rallocx", 2),
    end("dallocx"),
    end("sdallocx"),
    // mimalloc's own, which its Rust crate calls.
    allocate("zalloc", 1),
    allocate("malloc_aligned", 1),
    allocate("zalloc_aligned", 1),
    reallocate("realloc_aligned", 2),
};

constexpr Function kOperators[] = {
    construct("_Znwm", MEMLEAK_NEW),
    construct("_Znam", MEMLEAK_NEW_ARRAY),
    construct("_ZnwmRKSt9nothrow_t", MEMLEAK_NEW),
    construct("_ZnamRKSt9nothrow_t", MEMLEAK_NEW_ARRAY),
    construct("_ZnwmSt11align_val_t", MEMLEAK_NEW),
    construct("_ZnamSt11align_val_t", MEMLEAK_NEW_ARRAY),
    construct("_ZnwmSt11align_val_tRKSt9nothrow_t", MEMLEAK_NEW),
    construct("_ZnamSt11align_val_tRKSt9nothrow_t", MEMLEAK_NEW_ARRAY),
    end("_ZdlPv", MEMLEAK_NEW),
    end("_ZdaPv", MEMLEAK_NEW_ARRAY),
    end("_ZdlPvm", MEMLEAK_NEW),
    end("_ZdaPvm", MEMLEAK_NEW_ARRAY),
    end("_ZdlPvRKSt9nothrow_t", MEMLEAK_NEW),
    end("_ZdaPvRKSt9nothrow_t", MEMLEAK_NEW_ARRAY),
    end("_ZdlPvSt11align_val_t", MEMLEAK_NEW),
    end("_ZdaPvSt11align_val_t", MEMLEAK_NEW_ARRAY),
    end("_ZdlPvmSt11align_val_t", MEMLEAK_NEW),
    end("_ZdaPvmSt11align_val_t", MEMLEAK_NEW_ARRAY),
    end("_ZdlPvSt11align_val_tRKSt9nothrow_t", MEMLEAK_NEW),
    end("_ZdaPvSt11align_val_tRKSt9nothrow_t", MEMLEAK_NEW_ARRAY),
};

constexpr Function kMappings[] = {
    {"mmap", MEMLEAK_COOKIE(MEMLEAK_MAP, 2, 0, 1, 0), 4, true, false},
    {"mmap64", MEMLEAK_COOKIE(MEMLEAK_MAP, 2, 0, 1, 0), 4, true, false},
    {"munmap", MEMLEAK_COOKIE(MEMLEAK_UNMAP, 2, 0, 1, 0), 2, true, false},
    {"mremap", MEMLEAK_COOKIE(MEMLEAK_REMAP, 3, 0, 1, 0), 4, true, false},
};

constexpr Function kJumps[] = {
    {"longjmp", MEMLEAK_COOKIE(MEMLEAK_JUMP, 0, 0, 0, 0), 1, false, false},
    {"siglongjmp", MEMLEAK_COOKIE(MEMLEAK_JUMP, 0, 0, 0, 0), 1, false, false},
    {"_longjmp", MEMLEAK_COOKIE(MEMLEAK_JUMP, 0, 0, 0, 0), 1, false, false},
    {"__longjmp_chk", MEMLEAK_COOKIE(MEMLEAK_JUMP, 0, 0, 0, 0), 1, false, false},
};

constexpr std::string_view kPrefixes[] = {"", "je_", "_rjem_", "tc_", "mi_", "rp", "sn_", "hoard_"};

} // namespace

std::span<const Function> heap_functions() { return kHeap; }
std::span<const Function> cxx_operators() { return kOperators; }
std::span<const Function> mapping_functions() { return kMappings; }
std::span<const Function> jump_functions() { return kJumps; }
std::span<const std::string_view> known_prefixes() { return kPrefixes; }

} // namespace dwunw_tool::memleak
