# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Compares examples/bpf_memleak with its target's own record of leaks.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME integration.bpf_memleak_names_each_leak
    COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/bpf_memleak_test.py"
            "$<TARGET_FILE:memleak_user>" "$<TARGET_FILE:demo_leak>")
set_tests_properties(integration.bpf_memleak_names_each_leak PROPERTIES LABELS integration TIMEOUT 180 SKIP_RETURN_CODE 77)
# The example must stay short enough to be read in one sitting.
add_test(NAME integration.bpf_memleak_is_small
    COMMAND sh -c "lines=$(cat memleak.bpf.c memleak_user.c memleak.h | wc -l); echo $lines lines; test $lines -lt 310"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}/examples/bpf_memleak")
set_tests_properties(integration.bpf_memleak_is_small PROPERTIES LABELS integration TIMEOUT 10)
