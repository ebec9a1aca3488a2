# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Output that cannot be written, of every command and example.
add_test(NAME integration.output_errors_are_reported
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/output_errors_test.py" "$<TARGET_FILE:dwunw_tool>"
            "$<TARGET_FILE:memleak_dwunw_user>" "$<TARGET_FILE:memleak_user>")
set_tests_properties(integration.output_errors_are_reported PROPERTIES LABELS integration TIMEOUT 300 SKIP_RETURN_CODE 77)
