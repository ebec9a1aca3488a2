# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of single files of tools/dwunw.
foreach(name IN ITEMS frame_text waits_for)
    set(test dwunw_${name}_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw_tool_parts dwunw GTest::gtest_main)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
foreach(name IN ITEMS memleak_functions memleak_mappings memleak_options memleak_sampling recorder_watched)
    set(test tools_${name}_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw_tool_parts dwunw GTest::gtest_main)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
