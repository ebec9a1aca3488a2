# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# scripts/demo: its check on made-up reports, and a whole run.
add_test(NAME integration.demo_check_sees_each_fault
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/demo_check_test" "${PROJECT_SOURCE_DIR}/scripts/demo")
set_tests_properties(integration.demo_check_sees_each_fault PROPERTIES LABELS integration TIMEOUT 60)
if(TARGET memleak_dwunw_user)
    add_test(NAME integration.demo_finds_its_leak
        COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/demo_test" "${PROJECT_SOURCE_DIR}/scripts/demo" "${PROJECT_BINARY_DIR}")
    set_tests_properties(integration.demo_finds_its_leak PROPERTIES LABELS integration TIMEOUT 180 SKIP_RETURN_CODE 77)
endif()
