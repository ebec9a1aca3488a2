# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of src/process and src/core. The plugins they load: two that claim the same build-id, and one whose text lies at an address
# that is not its file offset.
function(add_process_plugin name value)
    add_library(${name} SHARED process_fixture.c)
    target_compile_definitions(${name} PRIVATE "PLUGIN_VALUE=${value}")
    target_compile_options(${name} PRIVATE -O1 -g0 -fno-sanitize=all -fomit-frame-pointer)
    target_link_options(${name} PRIVATE -fno-sanitize=all -Wl,--build-id=0x0123456789abcdef0123456789abcdef01234567 ${ARGN})
endfunction()
add_process_plugin(process_plugin_a 1)
add_process_plugin(process_plugin_b 2)
add_process_plugin(process_plugin_moved 3 -Wl,-Ttext=0x5000000)

foreach(name IN ITEMS core_contents core_file core_target core_write process_compile_queue process_debug_file
                      process_file_source process_held_tables process_live_target process_maps process_memory_image
                      process_modified_pages process_module process_module_locator process_module_store
                      process_moved_code process_proc_dir process_process process_process_changes process_process_memory process_recent_page
                      process_refresh_budget process_stopped)
    set(test ${name}_test)
    add_executable(${test} ${test}.cc)
    target_compile_definitions(${test} PRIVATE
        "PLUGIN_A=\"$<TARGET_FILE:process_plugin_a>\""
        "PLUGIN_B=\"$<TARGET_FILE:process_plugin_b>\""
        "PLUGIN_MOVED=\"$<TARGET_FILE:process_plugin_moved>\"")
    add_dependencies(${test} process_plugin_a process_plugin_b process_plugin_moved)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw GTest::gtest_main Threads::Threads ZLIB::ZLIB ${CMAKE_DL_LIBS})
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
