# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of src/symbolize, and the library that they read, in three forms.
add_library(symbolize_fixture SHARED symbolize_fixture.cc)
target_compile_options(symbolize_fixture PRIVATE -O1 -g0 -fno-sanitize=all)
target_link_options(symbolize_fixture PRIVATE -fno-sanitize=all -Wl,--build-id=none)

find_program(XZ xz REQUIRED)
set(plain "$<TARGET_FILE:symbolize_fixture>")
set(stripped "${CMAKE_CURRENT_BINARY_DIR}/libsymbolize_fixture.stripped.so")
set(minidebug "${CMAKE_CURRENT_BINARY_DIR}/libsymbolize_fixture.minidebug.so")
set(debug_part "${CMAKE_CURRENT_BINARY_DIR}/symbolize_fixture.debug")
add_custom_command(
    OUTPUT "${stripped}" "${minidebug}"
    BYPRODUCTS "${debug_part}" "${debug_part}.xz"
    COMMAND "${CMAKE_STRIP}" -o "${stripped}" "${plain}"
    COMMAND "${CMAKE_OBJCOPY}" --only-keep-debug "${plain}" "${debug_part}"
    COMMAND "${XZ}" --keep --force "${debug_part}"
    COMMAND "${CMAKE_OBJCOPY}" --add-section ".gnu_debugdata=${debug_part}.xz" "${stripped}" "${minidebug}"
    DEPENDS symbolize_fixture
    VERBATIM)
add_custom_target(symbolize_fixtures DEPENDS "${stripped}" "${minidebug}")

foreach(name IN ITEMS demangle mini_debug symbol_image symbol_index module_symbols symbolizer)
    set(test symbolize_${name}_test)
    add_executable(${test} ${test}.cc)
    add_dependencies(${test} symbolize_fixtures)
    target_compile_definitions(${test} PRIVATE "SYMBOLIZE_FIXTURES=\"${CMAKE_CURRENT_BINARY_DIR}\"")
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw_symbolize GTest::gtest_main PkgConfig::libdw PkgConfig::liblzma
                                          ZLIB::ZLIB ${CMAKE_DL_LIBS})
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
