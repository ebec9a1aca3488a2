# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# examples/memleak_bcc_dwunw: on programs that record their leaks, and on programs of the distribution. The target
# is built as a distribution builds (no frame pointers), with frame pointers, and with them but without CFI.
if(NOT TARGET memleak_dwunw_user)
    return()
endif()
function(add_memleak_target name)
    add_executable(${name} memleak_target.c)
    target_compile_options(${name} PRIVATE -O2 -g0 -fno-sanitize=all ${ARGN})
    target_link_options(${name} PRIVATE -fno-sanitize=all)
    target_link_libraries(${name} PRIVATE Threads::Threads)
endfunction()
add_memleak_target(memleak_target -fomit-frame-pointer)
add_memleak_target(memleak_target_fp -fno-omit-frame-pointer)
add_memleak_target(memleak_target_no_cfi -fno-omit-frame-pointer -fno-asynchronous-unwind-tables -fno-unwind-tables)
add_executable(memleak_data_in_rbp memleak_data_in_rbp.c)
target_compile_options(memleak_data_in_rbp PRIVATE -O2 -g0 -fomit-frame-pointer -fno-sanitize=all)
target_link_options(memleak_data_in_rbp PRIVATE -fno-sanitize=all)
foreach(letter IN ITEMS a b)
    add_library(memleak_plugin_${letter} MODULE memleak_plugin.c)
    target_compile_definitions(memleak_plugin_${letter} PRIVATE LEAK=leak_in_${letter})
    target_compile_options(memleak_plugin_${letter} PRIVATE
        -O1 -g0 -fno-sanitize=all -fno-omit-frame-pointer)
    target_link_options(memleak_plugin_${letter} PRIVATE -fno-sanitize=all)
endforeach()
add_executable(memleak_reload memleak_reload.c)
target_compile_options(memleak_reload PRIVATE -O1 -g0 -fno-sanitize=all -fno-omit-frame-pointer)
target_link_options(memleak_reload PRIVATE -fno-sanitize=all)
target_link_libraries(memleak_reload PRIVATE ${CMAKE_DL_LIBS})

set(subjects leaks losses end errors kernel)
set(claims reports_each_leak counts_its_losses ends_with_its_target names_each_error leaves_the_kernels_stacks)
foreach(subject claim IN ZIP_LISTS subjects claims)
    add_test(NAME integration.memleak_run_${claim}
        COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_${subject}_test.py" "$<TARGET_FILE:memleak_dwunw_user>"
                "$<TARGET_FILE:memleak_target>" "$<TARGET_FILE_DIR:memleak_target>")
    set_tests_properties(integration.memleak_run_${claim} PROPERTIES
        LABELS integration TIMEOUT 900 SKIP_RETURN_CODE 77)
endforeach()
add_test(NAME integration.memleak_is_complete
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_complete_test.py" --memleak "$<TARGET_FILE:memleak_dwunw_user>")
add_test(NAME integration.memleak_rows_mix_no_stacks
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_rows_test.py" "$<TARGET_FILE:memleak_dwunw_user>"
            "$<TARGET_FILE:memleak_data_in_rbp>" "$<TARGET_FILE:memleak_reload>" "$<TARGET_FILE:memleak_plugin_a>"
            "$<TARGET_FILE:memleak_plugin_b>")
set_tests_properties(integration.memleak_rows_mix_no_stacks integration.memleak_is_complete PROPERTIES
    LABELS integration TIMEOUT 1800 SKIP_RETURN_CODE 77)

# memleak without dwunw's additions.
set(originals "${PROJECT_SOURCE_DIR}/examples/memleak_bcc_dwunw")
set(plain "${CMAKE_CURRENT_BINARY_DIR}/memleak_stripped")
foreach(file IN ITEMS core_fixes.bpf.h core_types.h maps.bpf.h memleak_dwunw.bpf.c memleak_dwunw.h memleak_dwunw_user.c
                      trace_helpers.c trace_helpers.h)
    add_custom_command(OUTPUT "${plain}/${file}"
        COMMAND "${CMAKE_COMMAND}" -E make_directory "${plain}"
        COMMAND "${PROJECT_SOURCE_DIR}/scripts/strip-dwunw-added" "${originals}/${file}" > "${plain}/${file}"
        DEPENDS "${originals}/${file}" "${PROJECT_SOURCE_DIR}/scripts/strip-dwunw-added"
        VERBATIM)
    list(APPEND plain_files "${plain}/${file}")
endforeach()
set_source_files_properties("${plain}/memleak_dwunw.bpf.c" PROPERTIES HEADER_FILE_ONLY ON) # not the compiler's
add_executable(memleak_plain "${plain}/memleak_dwunw_user.c" "${plain}/trace_helpers.c" ${plain_files})
dwunw_add_bpf_skeleton(memleak_plain "${plain}/memleak_dwunw.bpf.c" NAME memleak_dwunw_bpf)
target_compile_definitions(memleak_plain PRIVATE _GNU_SOURCE)
target_link_libraries(memleak_plain PRIVATE dwunw_libbpf elf)

add_test(NAME integration.memleak_without_additions_is_plain
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_plain_test.py" "$<TARGET_FILE:memleak_dwunw_user>" "$<TARGET_FILE:memleak_plain>"
            "${plain}" "${originals}" "$<TARGET_FILE:memleak_target>")
set_tests_properties(integration.memleak_without_additions_is_plain PROPERTIES LABELS integration TIMEOUT 120 SKIP_RETURN_CODE 77)

add_test(NAME integration.verify_memleak_finds_it_right COMMAND "${PROJECT_SOURCE_DIR}/scripts/verify-memleak" "${PROJECT_BINARY_DIR}")
set_tests_properties(integration.verify_memleak_finds_it_right PROPERTIES LABELS integration TIMEOUT 300 SKIP_RETURN_CODE 77)
