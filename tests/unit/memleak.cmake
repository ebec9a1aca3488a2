# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of single files of examples/memleak_bcc_dwunw.
set(memleak "${PROJECT_SOURCE_DIR}/examples/memleak_bcc_dwunw")
add_library(memleak_parts STATIC "${memleak}/dwunw_rows.c" "${memleak}/dwunw_target.c")
target_include_directories(memleak_parts PUBLIC "${memleak}")
target_compile_definitions(memleak_parts PRIVATE _GNU_SOURCE)
target_link_libraries(memleak_parts PUBLIC dwunw)
find_package(Threads REQUIRED)
foreach(name IN ITEMS rows target)
    set(test memleak_${name}_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE memleak_parts GTest::gtest_main Threads::Threads)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
