# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Stacks through functions that switch stacks and do not say so. Go builds its program when the test runs: that takes
# half a minute the first time, which the build of another target must not wait for.
if(NOT TARGET memleak_dwunw_user)
    return()
endif()
add_executable(stack_switch_target stack_switch_target.c)
target_compile_options(stack_switch_target PRIVATE -O2 -g0 -fno-sanitize=all -fomit-frame-pointer)
target_link_options(stack_switch_target PRIVATE -fno-sanitize=all)
add_test(NAME integration.stack_switches_end_walks
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/stack_switch_test.py" "$<TARGET_FILE:dwunw_tool>"
            "$<TARGET_FILE:memleak_dwunw_user>" "$<TARGET_FILE:stack_switch_target>"
            "${CMAKE_CURRENT_SOURCE_DIR}/stack_switch.go" "${CMAKE_CURRENT_BINARY_DIR}")
set_tests_properties(integration.stack_switches_end_walks PROPERTIES LABELS integration TIMEOUT 600 SKIP_RETURN_CODE 77)
