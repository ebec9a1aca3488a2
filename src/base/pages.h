// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Owns memory that comes straight from the system: zero, there page by page as it is touched, and gone at once when it
// is given back. For what is big and needed for a moment, which a heap would keep.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

namespace dwunw {

class Pages {
  public:
    Pages() = default;
    // Throws std::bad_alloc.
    explicit Pages(size_t size) : size_(size) {
        if (size == 0)
            return;
        void *const begin =
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
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

  private:
    uint8_t *begin_ = nullptr;
    size_t size_ = 0;
};

} // namespace dwunw
