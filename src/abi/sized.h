// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Structs of the C ABI that begin with their own size, so that a caller and a library of different versions agree:
//
//     an older caller   | size | known fields |                   missing fields read as zero; nothing is written there
//     the same version  | size | known fields … |                 used where it lies, without a copy
//     a newer caller    | size | known fields … | unknown fields | accepted if every unknown byte is zero
//
// DWUNW_ERR_STRUCT_SIZE refuses a size below the struct's first version (abi/sized_structs.h), and one that no struct
// has: above kLargestStruct, or not a multiple of the alignment of `size`.
//
// Proved by tests/unit/abi_sized_test, abi_sized_structs_test (every function of the ABI that takes such a struct)
// and capi_caller_test.c (a C program that is compiled with older structs, and with newer ones).
#pragma once

#include <dwunw/dwunw_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

namespace dwunw {

inline constexpr size_t kLargestStruct = 4096;

// The bytes that the first version of a struct has. A struct without an entry in abi/sized_structs.h does not compile.
template <typename Struct> inline constexpr size_t kFirstSize = 0;

// Whether a library that knows `known` bytes of a struct, the `first` of them since its first version, can use the one
// at `given`: DWUNW_OK, or DWUNW_ERR_STRUCT_SIZE. Reads no further than the struct's `size` says.
inline dwunw_status check_size(const void *given, size_t first, size_t known) {
    uint32_t size = 0;
    std::memcpy(&size, given, sizeof(size));
    if (size < first || size > kLargestStruct || size % alignof(uint32_t) != 0)
        return DWUNW_ERR_STRUCT_SIZE;
    const auto *bytes = static_cast<const unsigned char *>(given);
    const bool unknown_are_zero =
        size <= known || std::all_of(bytes + known, bytes + size, [](unsigned char byte) { return byte == 0; });
    return unknown_are_zero ? DWUNW_OK : DWUNW_ERR_STRUCT_SIZE;
}

// What a function does where the caller gave NULL.
enum class IfNull : uint8_t {
    kRefuse,   // DWUNW_ERR_INVALID_ARGUMENT
    kDefaults, // all fields are zero
};

// A caller's struct as this library knows it. `const` marks an input; an output is written as far as the caller's
// struct reaches, when this object ends. Use the fields only if status() is DWUNW_OK.
template <typename Struct> class Sized {
  public:
    using Known = std::remove_const_t<Struct>;
    static constexpr bool kIsOutput = !std::is_const_v<Struct>;
    static_assert(std::is_trivially_copyable_v<Known> && offsetof(Known, size) == 0);
    static_assert(kFirstSize<Known> >= sizeof(uint32_t) && kFirstSize<Known> <= sizeof(Known),
                  "the struct is missing from abi/sized_structs.h");

    explicit Sized(Struct *given, IfNull if_null = IfNull::kRefuse) : given_(given) {
        if (given != nullptr && given->size == sizeof(Known)) [[likely]]
            known_ = given;
        else
            take(if_null);
    }
    ~Sized() {
        if constexpr (kIsOutput)
            if (copy_)
                std::memcpy(given_, &*copy_, given_->size);
    }
    Sized(const Sized &) = delete;
    Sized &operator=(const Sized &) = delete;

    dwunw_status status() const { return status_; }
    explicit operator bool() const { return status_ == DWUNW_OK; }
    Struct &operator*() const { return *known_; }
    Struct *operator->() const { return known_; }

    // Zeroes every field that this library knows, but `size`, which stays the caller's.
    void clear() const requires kIsOutput {
        const auto size = known_->size;
        *known_ = {};
        known_->size = size;
    }

  private:
    // Out of the way of the common case.
    [[gnu::noinline]] void take(IfNull if_null) {
        if (given_ == nullptr && (kIsOutput || if_null == IfNull::kRefuse)) {
            status_ = DWUNW_ERR_INVALID_ARGUMENT;
            return;
        }
        size_t size = 0;
        if (given_ != nullptr) {
            status_ = check_size(given_, kFirstSize<Known>, sizeof(Known));
            if (status_ != DWUNW_OK)
                return;
            size = given_->size;
        }
        known_ = given_;
        if (size < sizeof(Known)) {
            known_ = &copy_.emplace();
            if (size != 0)
                std::memcpy(&*copy_, given_, size);
        }
    }

    Struct *given_;
    Struct *known_ = nullptr;
    dwunw_status status_ = DWUNW_OK;
    std::optional<Known> copy_; // of a smaller struct
};

} // namespace dwunw
