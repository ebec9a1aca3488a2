// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A program that moves its code to memory without a file, at the same place, as for large pages.
#pragma once

#include "process/maps.h"
#include "process_testing.h"

#include <dlfcn.h>

#include <functional>
#include <span>

namespace dwunw::testing {

// The code of a library of many pages: what is moved, and a function in it.
struct MovableCode {
    MovableCode() : function(static_cast<uint8_t *>(::dlsym(::dlopen("libz.so.1", RTLD_NOW), "deflate"))) {
        const UniqueFd fd(::open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
        const process::Maps maps = take(process::Maps::read(fd.get()));
        const process::Mapping *mapping = maps.find(RunAddr(reinterpret_cast<uint64_t>(function)));
        if (mapping == nullptr)
            std::abort();
        text = {reinterpret_cast<uint8_t *>(mapping->start.value), mapping->end - mapping->start};
    }
    // `change` is done to the copy before it takes the code's place. `left`: how much stays a mapping of the file at
    // both ends.
    void move(const std::function<void(std::span<uint8_t> copy)> &change, int protection, size_t left) {
        text = text.subspan(left, text.size() - 2 * left);
        void *copy = ::mmap(nullptr, text.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memcpy(copy, text.data(), text.size());
        change({static_cast<uint8_t *>(copy), text.size()});
        ::mprotect(copy, text.size(), protection);
        ::mremap(copy, text.size(), text.size(), MREMAP_MAYMOVE | MREMAP_FIXED, text.data());
    }
    void overwrite() const {
        ::mprotect(text.data(), text.size(), PROT_READ | PROT_WRITE);
        *function ^= 0xff;
        ::mprotect(text.data(), text.size(), PROT_READ | PROT_EXEC);
    }
    uint8_t *function;
    std::span<uint8_t> text;
};

inline void change_nothing(std::span<uint8_t> /*copy*/) {}

} // namespace dwunw::testing
