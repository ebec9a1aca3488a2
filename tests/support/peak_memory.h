// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Measures the peak memory of a function, in a process of its own. A sanitizer's memory would count, too; with one, the
// function only runs.
#pragma once

#include <gtest/gtest.h>

#include <fcntl.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>

namespace dwunw::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kMemoryIsOurs = false;
#else
inline constexpr bool kMemoryIsOurs = true;
#endif

// The growth of the resident set's peak while `body` runs. A failure if `body` returns false or ends the process.
// Earlier allocations are shared and do not count.
inline uint64_t peak_growth(const std::function<bool()> &body) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    EXPECT_GE(child, 0);
    const auto peak = [] {
        rusage usage{};
        ::getrusage(RUSAGE_SELF, &usage);
        return static_cast<uint64_t>(usage.ru_maxrss) << 10;
    };
    if (child == 0) {
        // Memory that the parent has freed must not be reused, and the parent's peak must not count.
        ::malloc_trim(0);
        const int peaks = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
        if (::write(peaks, "5", 1) != 1)
            ::_exit(2);
        const uint64_t before = peak();
        const bool good = body();
        const uint64_t grown = peak() - before;
        const bool written = ::write(ends[1], &grown, sizeof(grown)) == sizeof(grown);
        ::_exit(good && written ? 0 : 1);
    }
    ::close(ends[1]);
    uint64_t grown = ~uint64_t{0};
    int status = 0;
    EXPECT_EQ(::read(ends[0], &grown, sizeof(grown)), static_cast<ssize_t>(sizeof(grown)));
    ::close(ends[0]);
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
    return kMemoryIsOurs ? grown : 0;
}

} // namespace dwunw::testing
