# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Compares the walk inside the kernel with the user-space walk, gdb, libgcc's unwinder and the targets' own records.
add_executable(bpf_walk_user bpf_walk_user.c)
target_link_libraries(bpf_walk_user PRIVATE dwunw::bpf dwunw::dwunw dwunw_libbpf)
set_target_properties(bpf_walk_user PROPERTIES LINKER_LANGUAGE CXX)
dwunw_add_bpf_skeleton(bpf_walk_user bpf_walk.bpf.c NAME bpf_walk)

add_executable(bpf_walk_target bpf_walk_target.c bpf_walk_target_frames.c bpf_walk_target_maps.c)
target_compile_options(bpf_walk_target PRIVATE
    -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -fno-sanitize=all -Wno-unused-but-set-variable)
target_link_options(bpf_walk_target PRIVATE -rdynamic -fno-sanitize=all)
target_link_libraries(bpf_walk_target PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
foreach(plugin IN ITEMS a b)
    add_library(bpf_walk_plugin_${plugin} MODULE bpf_walk_plugin.c)
    target_compile_options(bpf_walk_plugin_${plugin} PRIVATE -O2 -fomit-frame-pointer -fno-sanitize=all)
    target_link_options(bpf_walk_plugin_${plugin} PRIVATE -fno-sanitize=all)
endforeach()
target_compile_definitions(bpf_walk_plugin_a PRIVATE PLUGIN_WORDS=3)
target_compile_definitions(bpf_walk_plugin_b PRIVATE PLUGIN_WORDS=9)

foreach(subject IN ITEMS depths deepest old_forms threads signals null pending nested at_return gdb distinct few_ids full_ring
                         small_pool user_walks storm stays exec_loop forks four generations
                         pid_namespace nested_pid_namespaces moved_text no_elf other_context)
    add_test(NAME integration.bpf_walk_${subject}
        COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/bpf_walk_test.py"
                "$<TARGET_FILE:bpf_walk_user>" "$<TARGET_FILE:bpf_walk_target>" "$<TARGET_FILE:bpf_walk_plugin_a>"
                "$<TARGET_FILE:bpf_walk_plugin_b>" ${subject})
    # A probe is in every process of the file, so one test would count the other's calls.
    set_tests_properties(integration.bpf_walk_${subject} PROPERTIES
        LABELS integration TIMEOUT 180 SKIP_RETURN_CODE 77 RESOURCE_LOCK bpf_walk_target)
endforeach()
