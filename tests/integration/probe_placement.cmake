# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# dwunw/probe_placement.h: runs probes at the entry and at the answer, in real allocators; dwunw/bpf_attach.h,
# each form.
find_program(MUSL_GCC musl-gcc REQUIRED)

add_executable(probe_placement_run probe_placement_run.c)
dwunw_add_bpf_skeleton(probe_placement_run probe_placement.bpf.c NAME probe_placement_bpf)
target_link_libraries(probe_placement_run PRIVATE dwunw::probe dwunw_libbpf)
set_target_properties(probe_placement_run PROPERTIES LINKER_LANGUAGE CXX)

# With the operators of C++, which it names by their symbols. The calls are all there: no builtins, nothing paired off.
set(target_flags -O1 -fno-builtin -fno-sanitize=all)
add_executable(probe_placement_target probe_placement_target.c)
target_compile_options(probe_placement_target PRIVATE ${target_flags})
target_link_options(probe_placement_target PRIVATE -fno-sanitize=all -Wl,--no-as-needed -lstdc++)
set(musl_target "${CMAKE_CURRENT_BINARY_DIR}/probe_placement_musl_target")
add_custom_command(OUTPUT "${musl_target}"
    COMMAND "${MUSL_GCC}" ${target_flags} -o "${musl_target}" "${CMAKE_CURRENT_SOURCE_DIR}/probe_placement_target.c"
    DEPENDS probe_placement_target.c
    VERBATIM)
add_custom_target(probe_placement_musl ALL DEPENDS "${musl_target}")

add_test(NAME integration.moved_probes_see_the_same
    COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/probe_placement_test.py"
            "$<TARGET_FILE:probe_placement_run>" "$<TARGET_FILE:probe_placement_target>" "${musl_target}")
set_tests_properties(integration.moved_probes_see_the_same PROPERTIES LABELS integration TIMEOUT 180 SKIP_RETURN_CODE 77)

add_executable(bpf_attach_run bpf_attach_run.c)
add_dependencies(bpf_attach_run probe_placement_run) # which makes the skeleton for both
target_include_directories(bpf_attach_run SYSTEM PRIVATE "${CMAKE_CURRENT_BINARY_DIR}")
target_link_libraries(bpf_attach_run PRIVATE dwunw::probe dwunw_libbpf)
set_target_properties(bpf_attach_run PROPERTIES LINKER_LANGUAGE CXX)
add_test(NAME integration.bpf_attach_in_each_form
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/bpf_attach_test.sh" "${PROJECT_SOURCE_DIR}" "$<TARGET_FILE:bpf_attach_run>")
set_tests_properties(integration.bpf_attach_in_each_form PROPERTIES LABELS integration TIMEOUT 120 SKIP_RETURN_CODE 77)
