// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The half of memleak_sites_target that is C++: a site for each form of operator new, and blocks that each form of
// operator delete frees.
#include "memleak_sites.h"

#include <new>

namespace {

constexpr std::align_val_t kAlignment{128};

} // namespace

extern "C" {

SITE_STEP static void site_new() {
    left("site_new", ::operator new(3001), 3001);
    SITE_STAY();
}

SITE_STEP static void site_new_array() {
    left("site_new_array", ::operator new[](3002), 3002);
    SITE_STAY();
}

SITE_STEP static void site_new_nothrow() {
    left("site_new_nothrow", ::operator new(3003, std::nothrow), 3003);
    SITE_STAY();
}

SITE_STEP static void site_new_array_nothrow() {
    left("site_new_array_nothrow", ::operator new[](3004, std::nothrow), 3004);
    SITE_STAY();
}

// libstdc++ rounds the size up to the alignment.
SITE_STEP static void site_new_aligned() {
    left("site_new_aligned", ::operator new(1280, kAlignment), 1280);
    SITE_STAY();
}

SITE_STEP static void site_new_array_aligned() {
    left("site_new_array_aligned", ::operator new[](1408, kAlignment), 1408);
    SITE_STAY();
}

SITE_STEP static void site_new_aligned_nothrow() {
    left("site_new_aligned_nothrow", ::operator new(1536, kAlignment, std::nothrow), 1536);
    SITE_STAY();
}

SITE_STEP static void site_new_array_aligned_nothrow() {
    left("site_new_array_aligned_nothrow", ::operator new[](1664, kAlignment, std::nothrow), 1664);
    SITE_STAY();
}

SITE_STEP static void site_deleted() {
    ::operator delete(::operator new(3101));
    ::operator delete (::operator new(3102), size_t{3102});
    ::operator delete(::operator new(3103, std::nothrow), std::nothrow);
    ::operator delete(::operator new(1280, kAlignment), kAlignment);
    ::operator delete (::operator new(1280, kAlignment), size_t{1280}, kAlignment);
    ::operator delete(::operator new(1280, kAlignment, std::nothrow), kAlignment, std::nothrow);
    ::operator delete[](::operator new[](3104));
    ::operator delete[](::operator new[](3105), size_t{3105});
    ::operator delete[](::operator new[](3106, std::nothrow), std::nothrow);
    ::operator delete[](::operator new[](1280, kAlignment), kAlignment);
    ::operator delete[](::operator new[](1280, kAlignment), size_t{1280}, kAlignment);
    ::operator delete[](::operator new[](1280, kAlignment, std::nothrow), kAlignment, std::nothrow);
    SITE_STAY();
}

void cxx_sites() {
    site_new();
    site_new_array();
    site_new_nothrow();
    site_new_array_nothrow();
    site_new_aligned();
    site_new_array_aligned();
    site_new_aligned_nothrow();
    site_new_array_aligned_nothrow();
    site_deleted();
    SITE_STAY();
}

} // extern "C"
