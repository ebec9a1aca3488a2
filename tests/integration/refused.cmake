# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# If the kernel refuses, each tool says why.
add_test(NAME integration.a_kernel_that_refuses_is_named
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/refused_test.py" "$<TARGET_FILE:dwunw_tool>"
            "$<TARGET_FILE:memleak_dwunw_user>" "$<TARGET_FILE:memleak_user>")
set_tests_properties(integration.a_kernel_that_refuses_is_named PROPERTIES LABELS integration TIMEOUT 300 SKIP_RETURN_CODE 77)
