# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Names that attack the terminal, through every command and example.
add_test(NAME integration.hostile_names_are_made_printable
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/hostile_names_test.py" "$<TARGET_FILE:dwunw_tool>"
            "$<TARGET_FILE:memleak_dwunw_user>" "$<TARGET_FILE:memleak_user>")
set_tests_properties(integration.hostile_names_are_made_printable PROPERTIES LABELS integration TIMEOUT 300 SKIP_RETURN_CODE 77)
