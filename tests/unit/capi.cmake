# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of src/capi: from C, and each of its files.
add_executable(capi_c_test capi_c_test.c)
set_target_properties(capi_c_test PROPERTIES C_STANDARD 11 C_EXTENSIONS ON LINKER_LANGUAGE CXX)
target_compile_definitions(capi_c_test PRIVATE _GNU_SOURCE)
target_compile_options(capi_c_test PRIVATE -Wall -Wextra -Wpedantic -Werror -O2 -fomit-frame-pointer -fno-sanitize=all)
target_link_libraries(capi_c_test PRIVATE dwunw)
add_test(NAME unit.capi_serves_c_programs COMMAND capi_c_test)
set_tests_properties(unit.capi_serves_c_programs PROPERTIES LABELS unit TIMEOUT 120)

# It has its own malloc and locks, which no sanitizer's can stand beside.
if(NOT DWUNW_SANITIZE)
    add_executable(capi_signal_test capi_signal_test.cc)
    target_link_libraries(capi_signal_test PRIVATE dwunw GTest::gtest_main Threads::Threads ${CMAKE_DL_LIBS})
    gtest_discover_tests(capi_signal_test TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 300)
endif()

# A caller of another version, which includes none of the headers.
foreach(version IN ITEMS older newer)
    set(test capi_${version}_caller_test)
    add_executable(${test} capi_caller_test.c)
    set_target_properties(${test} PROPERTIES C_STANDARD 11 C_EXTENSIONS ON LINKER_LANGUAGE CXX)
    target_compile_options(${test} PRIVATE -Wall -Wextra -Wpedantic -Werror)
    target_link_libraries(${test} PRIVATE dwunw_probe dwunw)
    add_test(NAME unit.capi_${version}_caller COMMAND ${test})
    set_tests_properties(unit.capi_${version}_caller PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
target_compile_definitions(capi_newer_caller_test PRIVATE NEWER_THAN_THE_LIBRARY)

foreach(name IN ITEMS core dwunw_api process regset table threads unwind)
    set(test capi_${name}_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw GTest::gtest_main Threads::Threads ${CMAKE_DL_LIBS})
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
target_compile_definitions(capi_threads_test PRIVATE
    "PLUGIN_A=\"$<TARGET_FILE:process_plugin_a>\""
    "PLUGIN_B=\"$<TARGET_FILE:process_plugin_b>\"")
add_dependencies(capi_threads_test process_plugin_a process_plugin_b) # of process.cmake
