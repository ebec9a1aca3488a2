# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests that bench/run_bpf works, not its figures.
if(NOT TARGET memleak_dwunw_user)
    return()
endif()
include("${PROJECT_SOURCE_DIR}/bench/bpf.cmake")
add_test(NAME integration.bench_bpf_runs
    COMMAND "${PROJECT_SOURCE_DIR}/bench/run_bpf" "${PROJECT_BINARY_DIR}" pairs --quick --rounds 1 --slice 0.02
            --tool "$<TARGET_FILE:memleak_dwunw_user>")
set_tests_properties(integration.bench_bpf_runs PROPERTIES LABELS integration TIMEOUT 120 SKIP_RETURN_CODE 77)
