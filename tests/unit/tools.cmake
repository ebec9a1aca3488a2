# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of single files of tools/dwunw.
add_executable(dwunw_waits_for_test dwunw_waits_for_test.cc)
target_include_directories(dwunw_waits_for_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
target_link_libraries(dwunw_waits_for_test PRIVATE dwunw_tool_parts dwunw GTest::gtest_main)
gtest_discover_tests(dwunw_waits_for_test TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
