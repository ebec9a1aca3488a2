# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The programs that bench/run_bpf puts memleak on. Also what its test needs (tests/integration/bench_bpf.cmake).
include_guard(GLOBAL)
function(add_bpf_target name)
    add_executable(${name} "${PROJECT_SOURCE_DIR}/bench/bpf_target.cc")
    target_compile_options(${name} PRIVATE -O2 -fno-sanitize=all ${ARGN})
    target_link_options(${name} PRIVATE -fno-sanitize=all)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bench")
endfunction()
add_bpf_target(bench_bpf_target -fomit-frame-pointer)
add_bpf_target(bench_bpf_target_fp -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer)
