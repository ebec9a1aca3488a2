// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Exceptions: libgcc's unwinder works on the stack that is being stepped. There are frames with clean-ups, one that
// throws again, one with a realigned stack, and a catch.
#include <stdexcept>
#include <string>
#include <vector>

namespace {

#define NOINLINE __attribute__((noinline))

volatile long cleaned = 0;

struct Guard {
    long value;
    NOINLINE ~Guard() { cleaned = cleaned + value; }
};

NOINLINE long throws(long x) {
    const Guard guard{x};
    if (x > 2)
        throw std::runtime_error("three");
    return x;
}

NOINLINE long overaligned(long x) {
    alignas(64) volatile long slots[8];
    const Guard guard{x};
    slots[x & 7] = x;
    return throws(x) + slots[x & 7];
}

NOINLINE long throws_on(long x) {
    const std::vector<long> values(static_cast<size_t>(x), x);
    try {
        return overaligned(x) + values[0];
    } catch (const std::runtime_error &) {
        cleaned = cleaned + 1;
        throw;
    }
}

NOINLINE long catches(long x) {
    try {
        return throws_on(x);
    } catch (const std::exception &error) {
        return static_cast<long>(std::string(error.what()).size());
    }
}

} // namespace

int main() {
    asm volatile("int3" ::: "memory");
    const long result = catches(1) + catches(3);
    asm volatile("int3" ::: "memory");
    return result == 8 ? 0 : 1;
}
