# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# What return probes do to a program, and which calls are seen if they end in unusual ways: every form, every subject.
add_executable(return_probes_run return_probes_run.c)
dwunw_add_bpf_skeleton(return_probes_run return_probes.bpf.c NAME return_probes)
target_link_libraries(return_probes_run PRIVATE dwunw::probe dwunw::bpf dwunw::dwunw dwunw_libbpf)
set_target_properties(return_probes_run PROPERTIES LINKER_LANGUAGE CXX)

add_executable(return_probes_target return_probes_target.c)
target_compile_options(return_probes_target PRIVATE -O2 -fomit-frame-pointer -fno-sanitize=all)
target_link_options(return_probes_target PRIVATE -fno-sanitize=all)
target_link_libraries(return_probes_target PRIVATE Threads::Threads)

foreach(subject IN ITEMS alt_above alt_below alt_of_main fibers_between fibers_inside fibers_migrate fibers_migrate_inside
                         jump_then_coroutine jump_then_calls jump_off_alt own_eyes)
    set(command "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/return_probes_test.py"
        "$<TARGET_FILE:return_probes_run>" "$<TARGET_FILE:return_probes_target>" ${subject})
    add_test(NAME integration.return_probes_${subject} COMMAND ${command} 300)
    # A session gives its return probes to every process that is probed at the same place (dwunw_calls.bpf.h).
    set_tests_properties(integration.return_probes_${subject} PROPERTIES
        LABELS integration TIMEOUT 180 SKIP_RETURN_CODE 77 RESOURCE_LOCK return_probes_target)
    # As `make test-storm` runs it.
    add_test(NAME storm.return_probes_${subject} CONFIGURATIONS storm COMMAND ${command} 10000)
    set_tests_properties(storm.return_probes_${subject} PROPERTIES
        LABELS storm TIMEOUT 1200 SKIP_RETURN_CODE 77 RESOURCE_LOCK return_probes_target)
endforeach()
