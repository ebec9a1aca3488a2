# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of single files of tools/dwunw.
foreach(test IN ITEMS dwunw_frame_text_test dwunw_waits_for_test tools_memleak_functions_test tools_memleak_history_test
        tools_memleak_mappings_test tools_memleak_options_test tools_memleak_overhead_test tools_memleak_sampling_test
        tools_memleak_suppressions_test tools_recorder_watched_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw_tool_parts dwunw GTest::gtest_main)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
