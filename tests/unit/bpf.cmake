# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of src/bpf and src/probe, and of the walker in BPF as user code.
add_library(bpf_user_walk STATIC ../support/bpf_user_walk.c)
target_link_libraries(bpf_user_walk PUBLIC dwunw)

foreach(name IN ITEMS block_allocator bpf_maps calls kernel_features lasting layout linker_probe map_history map_watch
                      map_validity moment number_index pid_namespace poll_budget process_walk publisher session stack_store start_addresses table_encoding table_pool walk
                      walk_id walk_validity)
    set(test bpf_${name}_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE bpf_user_walk dwunw_bpf dwunw GTest::gtest_main)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()

target_link_libraries(bpf_bpf_maps_test PRIVATE dwunw_libbpf)
target_compile_definitions(bpf_publisher_test PRIVATE
    "PLUGIN_A=\"$<TARGET_FILE:process_plugin_a>\""
    "PLUGIN_B=\"$<TARGET_FILE:process_plugin_b>\"")
add_dependencies(bpf_publisher_test process_plugin_a process_plugin_b) # of process.cmake

foreach(name IN ITEMS function_file placement return_instructions)
    set(test probe_${name}_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw_probe dwunw GTest::gtest_main)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
