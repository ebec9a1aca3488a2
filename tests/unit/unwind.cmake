# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of src/unwind.
foreach(name IN ITEMS allocations code_answers code_paths code_state fde_list fde_search frame_by_code frame_chain lost_sp module_cfi rule
                      rule_cache stack_memory step table table_walk table_writer walk walk_no_code walk_unmentioned_register
                      walk_without_cfi)
    set(test unwind_${name}_test)
    add_executable(${test} ${test}.cc ../support/reference_cfi.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw GTest::gtest_main)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
