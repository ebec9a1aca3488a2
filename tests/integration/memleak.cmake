# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# examples/memleak_bcc_dwunw: on programs that know what they leaked, and on programs that we did not write. The target
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

add_test(NAME integration.memleak_modes
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_modes.py" "$<TARGET_FILE:memleak_dwunw_user>"
            "$<TARGET_FILE:memleak_target>" "$<TARGET_FILE_DIR:memleak_target>")
add_test(NAME integration.memleak_is_complete
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/memleak_complete.py" --memleak "$<TARGET_FILE:memleak_dwunw_user>")
set_tests_properties(integration.memleak_modes integration.memleak_is_complete PROPERTIES
    LABELS integration TIMEOUT 600 SKIP_RETURN_CODE 77)
