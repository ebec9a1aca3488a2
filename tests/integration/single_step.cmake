# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Steps through programs, and compares the walk at each instruction with the executed calls. The programs are built as
# distributions build theirs, by two compilers and with two libcs, independent of this build's own flags.
find_program(DWUNW_CLANG NAMES clang REQUIRED)
find_program(DWUNW_CLANGXX NAMES clang++ REQUIRED)
find_program(DWUNW_MUSL_GCC NAMES musl-gcc REQUIRED)

set(step_sources "${CMAKE_CURRENT_SOURCE_DIR}/single_step")
set(step_targets "${CMAKE_CURRENT_BINARY_DIR}/step_targets")
file(MAKE_DIRECTORY "${step_targets}")
set(step_flags -O2 -g0 -fomit-frame-pointer -fPIE -pie -pthread)

# A program of `source` and a library beside it, whose functions it calls through lazily bound stubs.
function(add_step_target name compiler source)
    set(library)
    set(link)
    if(source STREQUAL target.c)
        set(library "${step_targets}/lib${name}.so")
        set(link "-L${step_targets}" "-l${name}" "-Wl,-rpath,${step_targets}")
        add_custom_command(OUTPUT "${library}"
            COMMAND "${compiler}" -O2 -g0 -fomit-frame-pointer -fPIC -shared ${ARGN} -Wl,-z,lazy
                    "${step_sources}/target_library.c" -o "${library}"
            DEPENDS "${step_sources}/target_library.c" "${step_sources}/target_library.h"
            VERBATIM)
    endif()
    add_custom_command(OUTPUT "${step_targets}/${name}"
        COMMAND "${compiler}" ${step_flags} ${ARGN} -Wl,-z,lazy "${step_sources}/${source}" ${link} -o "${step_targets}/${name}"
        DEPENDS "${step_sources}/${source}" "${step_sources}/target_library.h" ${library}
        VERBATIM)
    set_property(GLOBAL APPEND PROPERTY DWUNW_STEP_TARGETS "${step_targets}/${name}" ${library})
endfunction()

add_step_target(step_gcc "${CMAKE_C_COMPILER}" target.c -fstack-clash-protection)
add_step_target(step_gcc_cet "${CMAKE_C_COMPILER}" target.c -fcf-protection=full -fstack-protector-all)
add_step_target(step_gcc_avx2 "${CMAKE_C_COMPILER}" target.c -O3 -mavx2 -mstackrealign)
add_step_target(step_clang "${DWUNW_CLANG}" target.c)
add_step_target(step_clang_avx2 "${DWUNW_CLANG}" target.c -O3 -mavx2 -mstackrealign)
add_step_target(step_musl "${DWUNW_MUSL_GCC}" target.c -fasynchronous-unwind-tables)
add_step_target(step_throw_gcc "${CMAKE_CXX_COMPILER}" target_throw.cc)
add_step_target(step_throw_clang "${DWUNW_CLANGXX}" target_throw.cc)
get_property(step_target_files GLOBAL PROPERTY DWUNW_STEP_TARGETS)
add_custom_target(step_targets DEPENDS ${step_target_files})

add_executable(single_step_test single_step/compare.cc single_step/instruction.cc single_step/shadow_stack.cc single_step/single_step_test.cc single_step/tracer.cc single_step/walker.cc)
add_dependencies(single_step_test step_targets)
target_compile_definitions(single_step_test PRIVATE "STEP_TARGETS=\"${step_targets}\"")
target_link_libraries(single_step_test PRIVATE dwunw dwunw_symbolize Zydis::Zydis GTest::gtest_main)
gtest_discover_tests(single_step_test TEST_PREFIX integration. PROPERTIES LABELS integration TIMEOUT 300)
