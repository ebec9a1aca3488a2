# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Callers that call-frame information alone does not prove.
add_executable(no_code_target no_code_target.c)
target_compile_options(no_code_target PRIVATE
    -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -fplt -fno-sanitize=all)
target_link_options(no_code_target PRIVATE -rdynamic -fno-sanitize=all)
target_link_libraries(no_code_target PRIVATE dwunw::dwunw ${CMAKE_DL_LIBS})
set_target_properties(no_code_target PROPERTIES LINKER_LANGUAGE CXX)
add_executable(unmentioned_register_target unmentioned_register_target.c)
target_compile_options(unmentioned_register_target PRIVATE -O2 -fomit-frame-pointer -fno-optimize-sibling-calls)
add_test(NAME integration.uncertain_callers_are_right
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/uncertain_callers_test.py" "$<TARGET_FILE:dwunw_tool>"
            "$<TARGET_FILE:no_code_target>" "$<TARGET_FILE:unmentioned_register_target>")
set_tests_properties(integration.uncertain_callers_are_right PROPERTIES LABELS integration TIMEOUT 300)
