# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The core without src/arch/x86_64, built once more for tests/support/arch_made_up. Its selected.h stands before
# src/arch/selected.h. The test links with nothing of libdwunw, whose types have other sizes.
get_target_property(made_up_sources dwunw_objects SOURCES)
list(FILTER made_up_sources EXCLUDE REGEX "^arch/x86_64/")
list(TRANSFORM made_up_sources PREPEND "${PROJECT_SOURCE_DIR}/src/")
add_library(dwunw_made_up OBJECT ${made_up_sources})
target_include_directories(dwunw_made_up PUBLIC "${PROJECT_SOURCE_DIR}/tests/support/arch_made_up" "${PROJECT_SOURCE_DIR}/src"
                                                "${PROJECT_SOURCE_DIR}/include")
target_compile_options(dwunw_made_up PRIVATE -g0) # sixty files, whose compile time is mostly their headers'
target_link_libraries(dwunw_made_up PUBLIC ZLIB::ZLIB PkgConfig::libzstd)

add_executable(arch_made_up_test arch_made_up_test.cc)
target_link_libraries(arch_made_up_test PRIVATE dwunw_made_up GTest::gtest_main)
gtest_discover_tests(arch_made_up_test TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
