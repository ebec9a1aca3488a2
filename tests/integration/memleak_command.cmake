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
function(add_memleak_command_test name script)
    add_test(NAME integration.memleak_command_${name}
        COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/${script}" "$<TARGET_FILE:dwunw_tool>" ${ARGN})
    set_tests_properties(integration.memleak_command_${name} PROPERTIES
        LABELS integration TIMEOUT 600 SKIP_RETURN_CODE 77)
endfunction()

# The short form belongs to every run of the tests.
add_memleak_command_target(memleak_log_target memleak_log_target.c)
add_memleak_command_test(equals_a_programs_log memleak_ground_truth_test.py "$<TARGET_FILE:memleak_log_target>" 4)
add_test(NAME exhaustive.memleak_command_equals_a_programs_log CONFIGURATIONS exhaustive
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_ground_truth_test.py" "$<TARGET_FILE:dwunw_tool>"
            "$<TARGET_FILE:memleak_log_target>" 60)
set_tests_properties(exhaustive.memleak_command_equals_a_programs_log PROPERTIES LABELS exhaustive TIMEOUT 1200 SKIP_RETURN_CODE 77)

# Known sites, in every form of a program. CMake does not know musl's compiler.
add_memleak_command_target(memleak_sites_target memleak_sites_target.c memleak_sites_new.cc)
add_memleak_command_target(memleak_sites_static memleak_sites_target.c OPTIONS -DWITHOUT_CXX)
target_link_options(memleak_sites_static PRIVATE -static)
add_memleak_command_target(memleak_sites_static_pie memleak_sites_target.c OPTIONS -DWITHOUT_CXX -fPIE)
target_link_options(memleak_sites_static_pie PRIVATE -static-pie)
find_program(MUSL_GCC musl-gcc REQUIRED)
set(memleak_sites_musl)
foreach(form IN ITEMS dynamic static static-pie)
    set(program "${CMAKE_CURRENT_BINARY_DIR}/memleak_sites_musl_${form}")
    add_custom_command(OUTPUT "${program}"
        COMMAND "${MUSL_GCC}" -O2 -g0 -fomit-frame-pointer -fno-optimize-sibling-calls -fno-builtin -DWITHOUT_CXX
                "$<IF:$<STREQUAL:${form},dynamic>,-fPIE,-${form}>" -fPIE -o "${program}"
                "${CMAKE_CURRENT_SOURCE_DIR}/memleak_sites_target.c"
        DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/memleak_sites_target.c" "${CMAKE_CURRENT_SOURCE_DIR}/memleak_sites.h"
        VERBATIM)
    list(APPEND memleak_sites_musl "${program}")
endforeach()
add_custom_target(memleak_sites_musl ALL DEPENDS ${memleak_sites_musl})
add_memleak_command_test(finds_known_sites memleak_sites_test.py "$<TARGET_FILE:memleak_sites_target>" "$<TARGET_FILE:memleak_sites_static>"
    "$<TARGET_FILE:memleak_sites_static_pie>" ${memleak_sites_musl})

# A program goes on as it would alone. Its functions are exported, so that it can name them.
add_memleak_command_target(memleak_behaviour_target memleak_behaviour_target.cc)
target_link_options(memleak_behaviour_target PRIVATE -rdynamic)
add_memleak_command_test(changes_no_behaviour memleak_behaviour_test.py "$<TARGET_FILE:memleak_behaviour_target>")

# Messages, statuses, options and ends. memleak_target: memleak.cmake.
if(TARGET memleak_target)
    add_memleak_command_test(says_what_is_wrong memleak_command_test.py "$<TARGET_FILE:memleak_sites_target>" "$<TARGET_FILE:memleak_sites_static>"
        "$<TARGET_FILE:memleak_target>")
endif()

# Programs of the distribution, and one that Go builds when the test runs.
add_memleak_command_test(finds_blocks_of_programs memleak_programs_test.py "${CMAKE_CURRENT_SOURCE_DIR}/stack_switch.go"
    "${CMAKE_CURRENT_BINARY_DIR}")
