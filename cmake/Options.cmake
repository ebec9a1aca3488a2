# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The options of a build. The Makefile passes its variables of the same names.
option(DWUNW_TESTS "Build the tests (their packages: [test] in scripts/debian-packages.txt)" OFF)
option(DWUNW_BENCH "Build the benchmarks (their packages: [bench] there)" OFF)
option(DWUNW_WERROR "Treat compiler warnings as errors" OFF)
option(DWUNW_SANITIZE "Build with AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
option(DWUNW_TSAN "Build with ThreadSanitizer" OFF)
option(DWUNW_FUZZ "Build the libFuzzer targets in tests/fuzz, with sanitizers; needs clang" OFF)
option(DWUNW_STRIP "Install stripped programs and libraries; OFF for packagers, who keep debug information apart" ON)
option(DWUNW_MEMLEAK_BCC "Build examples/memleak_bcc_dwunw" ON)

set(LIBBPF_CFLAGS "" CACHE STRING "Compiler flags for libbpf's headers; empty: ask pkg-config")
set(LIBBPF_LDLIBS "" CACHE STRING "Linker flags for libbpf; empty: ask pkg-config")
set(DWUNW_EXAMPLE_CFLAGS "" CACHE STRING "More compiler flags for the examples")

if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Debug, Release, RelWithDebInfo, MinSizeRel" FORCE)
endif()
