# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Code without CFI: random programs, half with and half without frame pointers, compared with their CFI.
set(frames_without_cfi "${CMAKE_CURRENT_SOURCE_DIR}/frames_without_cfi_test.py" --dwunw "$<TARGET_FILE:dwunw_tool>")
add_test(NAME integration.frames_without_cfi
    COMMAND ${frames_without_cfi} --variants gcc-O2,gcc-Os,clang-O2,g++-O2 --cores 3 --at-least 100 --right 40)
add_test(NAME integration.frames_without_any_cfi
    COMMAND ${frames_without_cfi} --programs bash,perl --cores 3 --at-least 6)
add_test(NAME integration.frames_without_cfi_sees_a_frame_left_out
    COMMAND ${frames_without_cfi} --variants gcc-O2 --functions 40 --cores 1 --leave-out 1)
set_tests_properties(integration.frames_without_cfi_sees_a_frame_left_out PROPERTIES
    PASS_REGULAR_EXPRESSION "all dwunw: .* [1-9][0-9]* wrong")
add_test(NAME exhaustive.frames_without_cfi CONFIGURATIONS exhaustive
    COMMAND ${frames_without_cfi} --cores 12 --seeds 2 --functions 200 --at-least 2000 --right 50)
set_tests_properties(integration.frames_without_cfi integration.frames_without_any_cfi
    integration.frames_without_cfi_sees_a_frame_left_out PROPERTIES LABELS integration TIMEOUT 300)
set_tests_properties(exhaustive.frames_without_cfi PROPERTIES LABELS exhaustive TIMEOUT 3600)
