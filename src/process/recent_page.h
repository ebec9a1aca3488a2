// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Reads memory page by page for a walk that asks word by word.
//
//     walk:   word at 0x7ffc10, word at 0x7ffc18, word at 0x7ffc40        three questions
//     here:   the page at 0x7ff000                                        one system call
//
// A walk of a stopped process asks for two or three words for each frame, and each took a system call or two: a million
// frames took five seconds, while the process was stopped. The page is as old as its first read, so the memory must not
// change while the object lives, which is one walk.
//
// Not thread-safe; allocates nothing. Test: process_recent_page_test.
#pragma once

#include <dwunw/unwind.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace dwunw::process {

class RecentPage {
  public:
    static constexpr uint64_t kSize = 4096; // never larger than the smallest page that can be mapped

    RecentPage(dwunw_read_memory_fn reader, void *arg) : read_(reader), arg_(arg) {}
    RecentPage(const RecentPage &) = delete;
    RecentPage &operator=(const RecentPage &) = delete;

    // A dwunw_read_memory_fn. `self` is the object.
    static size_t read(void *self, uint64_t address, void *buffer, size_t length) {
        return static_cast<RecentPage *>(self)->read(address, buffer, length);
    }

  private:
    size_t read(uint64_t address, void *buffer, size_t length) {
        const uint64_t offset = address % kSize;
        if (length > kSize - offset)
            return read_(arg_, address, buffer, length);
        if (address - offset != start_) {
            start_ = address - offset;
            known_ = read_(arg_, start_, bytes_.data(), kSize);
        }
        if (offset + length > known_)
            return read_(arg_, address, buffer, length);
        std::memcpy(buffer, bytes_.data() + offset, length);
        return length;
    }

    dwunw_read_memory_fn read_;
    void *arg_;
    uint64_t start_ = 1;               // 1: the address of no page
    size_t known_ = 0;                 // bytes of bytes_, from the page's start
    std::array<uint8_t, kSize> bytes_; // not initialised: most walks read none
};

} // namespace dwunw::process
