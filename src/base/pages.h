// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Owns memory that comes directly from the system. It is zero, each page is allocated when it is touched, and it goes
// back to the system at once. For large buffers that are needed for a moment; a heap would keep them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace dwunw {

class Pages {
  public:
    Pages() = default;
    // kAll: allocate every page now, for memory that will be written completely. Touching page by page costs several
    // times as much.
    enum class There : uint8_t { kAsTouched, kAll };
    // Throws std::bad_alloc.
    explicit Pages(size_t size, There there = There::kAsTouched) : size_(size) {
        if (size == 0)
            return;
        const int populate = there == There::kAll ? MAP_POPULATE : 0;
        void *const begin = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | populate, -1, 0);
        if (begin == MAP_FAILED)
            throw std::bad_alloc();
        begin_ = static_cast<uint8_t *>(begin);
    }
    Pages(Pages &&other) noexcept
        : begin_(std::exchange(other.begin_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Pages &operator=(Pages &&other) noexcept {
        std::swap(begin_, other.begin_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Pages() {
        if (begin_ != nullptr)
            ::munmap(begin_, size_);
    }

    std::span<uint8_t> bytes() const { return {begin_, size_}; }
    // The caller must munmap it.
    std::span<uint8_t> release() { return {std::exchange(begin_, nullptr), size_}; }

  private:
    uint8_t *begin_ = nullptr;
    size_t size_ = 0;
};

// For a vector that may grow large and is not kept.
template <typename T> class PageAllocator {
  public:
    using value_type = T;
    PageAllocator() = default;
    template <typename U> PageAllocator(const PageAllocator<U> & /*other*/) {} // NOLINT(google-explicit-constructor)

    T *allocate(size_t count) {
        if (count > SIZE_MAX / sizeof(T))
            throw std::bad_array_new_length();
        if (count * sizeof(T) < kFromSystem)
            return static_cast<T *>(::operator new(count * sizeof(T)));
        return reinterpret_cast<T *>(Pages(count * sizeof(T)).release().data());
    }
    void deallocate(T *memory, size_t count) {
        if (count * sizeof(T) < kFromSystem)
            ::operator delete(memory);
        else
            ::munmap(memory, count * sizeof(T));
    }
    bool operator==(const PageAllocator & /*other*/) const { return true; }

  private:
    static constexpr size_t kFromSystem = size_t{64} << 10;
};
template <typename T> using PagedVector = std::vector<T, PageAllocator<T>>;

} // namespace dwunw
