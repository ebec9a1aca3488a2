// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A budget of bytes that several owners share. An owner takes a share before it allocates; if there is no room, it does
// without. Thread-safe. A share may outlive its budget.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

namespace dwunw {

class Budget {
    using Left = std::atomic<uint64_t>;

  public:
    explicit Budget(uint64_t bytes) : left_(std::make_shared<Left>(bytes)) {}

    // The bytes that one owner has taken. Gives them back at its end.
    class Share {
      public:
        Share() = default;
        Share(Share &&other) noexcept : left_(std::move(other.left_)), bytes_(std::exchange(other.bytes_, 0)) {}
        Share &operator=(Share &&other) noexcept {
            std::swap(left_, other.left_);
            std::swap(bytes_, other.bytes_);
            return *this;
        }
        Share(const Share &) = delete;
        Share &operator=(const Share &) = delete;
        ~Share() {
            if (left_ != nullptr)
                left_->fetch_add(bytes_, std::memory_order_relaxed);
        }
        uint64_t bytes() const { return bytes_; }

      private:
        friend class Budget;
        Share(std::shared_ptr<Left> left, uint64_t bytes) : left_(std::move(left)), bytes_(bytes) {}

        std::shared_ptr<Left> left_;
        uint64_t bytes_ = 0;
    };

    // Takes all of the bytes, or nothing if there is not enough room.
    std::optional<Share> take(uint64_t bytes) {
        uint64_t left = left_->load(std::memory_order_relaxed);
        do {
            if (bytes > left)
                return std::nullopt;
        } while (!left_->compare_exchange_weak(left, left - bytes, std::memory_order_relaxed));
        return Share(left_, bytes);
    }
    uint64_t left() const { return left_->load(std::memory_order_relaxed); }

  private:
    std::shared_ptr<Left> left_;
};

} // namespace dwunw
