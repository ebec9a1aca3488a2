# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# `dwunw memleak`, on programs that know what they hold.
function(add_memleak_command_target name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "OPTIONS;LIBRARIES")
    add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
    target_compile_options(${name} PRIVATE
        -O2 -g0 -fno-sanitize=all -fomit-frame-pointer -fno-optimize-sibling-calls -fno-builtin ${arg_OPTIONS})
    target_link_options(${name} PRIVATE -fno-sanitize=all)
    target_link_libraries(${name} PRIVATE Threads::Threads ${arg_LIBRARIES})
endfunction()
function(add_memleak_command_test name)
    add_test(NAME integration.memleak_command_${name} COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_${name}_test.py"
        "$<TARGET_FILE:dwunw_tool>" ${ARGN})
    set_tests_properties(integration.memleak_command_${name} PROPERTIES
        LABELS integration TIMEOUT 600 SKIP_RETURN_CODE 77)
endfunction()

# The short form belongs to every run of the tests.
add_memleak_command_target(memleak_log_target memleak_log_target.c)
add_memleak_command_test(ground_truth "$<TARGET_FILE:memleak_log_target>" 4)
add_test(NAME exhaustive.memleak_ground_truth CONFIGURATIONS exhaustive
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_ground_truth_test.py" "$<TARGET_FILE:dwunw_tool>"
            "$<TARGET_FILE:memleak_log_target>" 60)
set_tests_properties(exhaustive.memleak_ground_truth PROPERTIES LABELS exhaustive TIMEOUT 1200 SKIP_RETURN_CODE 77)
