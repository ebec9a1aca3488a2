# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The dwunw command, alone and compared with eu-stack. More programs: stack_compare_test.py --programs all --samples 100.
add_executable(deep_target deep_target.c)
target_link_libraries(deep_target PRIVATE Threads::Threads)
target_compile_options(deep_target PRIVATE -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -fno-sanitize=all)
add_test(NAME integration.stack_command_is_right
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/stack_cli_test.py" "$<TARGET_FILE:dwunw_tool>" "$<TARGET_FILE:deep_target>")
add_test(NAME integration.stack_equals_eu_stack
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/stack_compare_test.py" --dwunw "$<TARGET_FILE:dwunw_tool>" --samples 12
            --programs "python3,redis-server,sqlite3,nginx,perl,node")
add_test(NAME integration.stack_compare_sees_a_wrong_frame
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/stack_compare_test.py" --dwunw "${PROJECT_SOURCE_DIR}/tests/support/break_a_frame.sh" --samples 1 --programs python3)
set_tests_properties(integration.stack_compare_sees_a_wrong_frame PROPERTIES
    ENVIRONMENT "DWUNW=$<TARGET_FILE:dwunw_tool>"
    PASS_REGULAR_EXPRESSION "python3 [0-9/]+: different")
# There eu-stack uses rbp, which already is the caller's, and leaves a frame out.
add_test(NAME integration.stack_at_a_return_without_cfi
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/stack_compare_test.py" --dwunw "$<TARGET_FILE:dwunw_tool>" --samples 1
            --programs at-return)
set_tests_properties(integration.stack_at_a_return_without_cfi PROPERTIES
    PASS_REGULAR_EXPRESSION "at-return .* 0 equal, 0 eu-stack shorter, 1 eu-stack wrong, 0 dwunw shorter, 0 different")
add_test(NAME integration.binary_forms_are_walked
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/binary_forms_test.py" "$<TARGET_FILE:dwunw_tool>")
set_tests_properties(
    integration.binary_forms_are_walked integration.stack_command_is_right integration.stack_equals_eu_stack integration.stack_compare_sees_a_wrong_frame
    integration.stack_at_a_return_without_cfi PROPERTIES
    LABELS integration TIMEOUT 300)
