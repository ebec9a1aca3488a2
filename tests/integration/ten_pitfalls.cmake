# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The ten pitfalls, one test each and more, and what does not fit small counters.
foreach(name IN ITEMS ten_pitfalls)
    set(test ${name}_test)
    add_executable(${test} ${test}.cc ../support/reference_cfi.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src" "${PROJECT_SOURCE_DIR}/tests")
    target_link_libraries(${test} PRIVATE dwunw GTest::gtest_main ${CMAKE_DL_LIBS})
    gtest_discover_tests(${test} TEST_PREFIX integration. PROPERTIES LABELS integration TIMEOUT 120)
endforeach()
