# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The ten pitfalls, one test each and more, and numbers that exceed small counters. The libraries are one source, laid
# out by two linkers in their several ways.
find_program(DWUNW_CLANG NAMES clang REQUIRED)
find_program(DWUNW_LLD NAMES ld.lld REQUIRED)
set(pitfall_libraries "${CMAKE_CURRENT_BINARY_DIR}/pitfall_libraries")
file(MAKE_DIRECTORY "${pitfall_libraries}")
set(pitfall_files)
set(room 16)
macro(add_pitfall_library name compiler)
    math(EXPR room "${room} + 32") # so that the rules of one are wrong for all others
    set(output "${pitfall_libraries}/pitfall_${name}.so")
    add_custom_command(OUTPUT "${output}"
        COMMAND "${compiler}" -O1 -g0 -fomit-frame-pointer -fasynchronous-unwind-tables -fPIC -shared -DROOM=${room} ${ARGN}
                "${CMAKE_CURRENT_SOURCE_DIR}/loaded_fixture.c" -o "${output}"
        DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/loaded_fixture.c"
        VERBATIM)
    list(APPEND pitfall_files "${output}")
endmacro()
add_pitfall_library(gnu "${CMAKE_C_COMPILER}" -Wl,-z,separate-code)
add_pitfall_library(gnu_one_segment "${CMAKE_C_COMPILER}" -Wl,-z,noseparate-code)
add_pitfall_library(gnu_moved "${CMAKE_C_COMPILER}" -Wl,-Ttext=0x5000000 -Wl,--section-start=far_code=0x7000000)
add_pitfall_library(lld "${DWUNW_CLANG}" -fuse-ld=lld -Wl,--rosegment)
add_pitfall_library(lld_no_rosegment "${DWUNW_CLANG}" -fuse-ld=lld -Wl,--no-rosegment)
add_pitfall_library(lld_separate "${DWUNW_CLANG}" -fuse-ld=lld -Wl,-z,separate-loadable-segments)
add_custom_target(pitfall_libraries DEPENDS ${pitfall_files})

foreach(name IN ITEMS capacity ten_pitfalls ten_pitfalls_files)
    set(test ${name}_test)
    add_executable(${test} ${test}.cc ../support/reference_cfi.cc)
    add_dependencies(${test} pitfall_libraries)
    target_compile_definitions(${test} PRIVATE "PITFALL_LIBRARIES=\"${pitfall_libraries}\"")
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src" "${PROJECT_SOURCE_DIR}/tests")
    target_link_libraries(${test} PRIVATE dwunw GTest::gtest_main ${CMAKE_DL_LIBS})
    gtest_discover_tests(${test} TEST_PREFIX integration. PROPERTIES LABELS integration TIMEOUT 120)
endforeach()
