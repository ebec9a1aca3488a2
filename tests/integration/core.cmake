# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# dwunw core and dwunw stack --core.
add_test(NAME integration.core_files_are_right
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/core_cli_test.py" "$<TARGET_FILE:dwunw_tool>")
set_tests_properties(integration.core_files_are_right PROPERTIES LABELS integration TIMEOUT 300)

# Compares frame for frame with eu-stack and gdb, on cores of programs under load. More: bench/collect.py,
# core_compare_test.py --corpus.
add_test(NAME integration.core_equals_eu_stack_and_gdb
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/core_compare_test.py" --dwunw "$<TARGET_FILE:dwunw_tool>" --cores 3
            --take "python3,redis-server,sqlite3,perl")
add_test(NAME integration.core_compare_sees_a_wrong_frame
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/core_compare_test.py" --dwunw "${PROJECT_SOURCE_DIR}/tests/support/break_a_frame.sh"
            --cores 1 --take python3)
set_tests_properties(integration.core_compare_sees_a_wrong_frame PROPERTIES
    ENVIRONMENT "DWUNW=$<TARGET_FILE:dwunw_tool>"
    PASS_REGULAR_EXPRESSION "different")
add_test(NAME exhaustive.core_equals_eu_stack_and_gdb CONFIGURATIONS exhaustive
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/core_compare_test.py" --dwunw "$<TARGET_FILE:dwunw_tool>" --cores 20 --take all)
set_tests_properties(integration.core_equals_eu_stack_and_gdb integration.core_compare_sees_a_wrong_frame PROPERTIES
    LABELS integration TIMEOUT 300)
set_tests_properties(exhaustive.core_equals_eu_stack_and_gdb PROPERTIES LABELS exhaustive TIMEOUT 5400)

# Targets that never answer, with both commands.
add_executable(no_answer_target no_answer_target.c)
target_link_libraries(no_answer_target PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
target_compile_options(no_answer_target PRIVATE -fno-sanitize=all)
target_link_options(no_answer_target PRIVATE -fno-sanitize=all)
add_library(no_answer_code SHARED no_answer_code.c)
target_compile_options(no_answer_code PRIVATE -fno-sanitize=all)
target_link_options(no_answer_code PRIVATE -fno-sanitize=all)
add_test(NAME integration.a_target_that_never_answers_is_released
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/no_answer_test.py" "$<TARGET_FILE:dwunw_tool>" "$<TARGET_FILE:no_answer_target>"
            "$<TARGET_FILE:no_answer_code>")
set_tests_properties(integration.a_target_that_never_answers_is_released PROPERTIES LABELS integration TIMEOUT 300)
