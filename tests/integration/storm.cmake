# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# A storm: plugins, threads and children that come and go while memleak watches. The short form belongs to every run of
# the tests; `make test-storm` runs what has the label "storm", long.
if(NOT TARGET memleak_dwunw_user OR NOT TARGET bpf_walk_user)
    return()
endif()
add_executable(storm_target storm_target.c)
target_compile_options(storm_target PRIVATE -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -fno-sanitize=all
    -Wno-unused-but-set-variable)
target_link_options(storm_target PRIVATE -fno-sanitize=all)
target_link_libraries(storm_target PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
foreach(number RANGE 19)
    add_library(storm_plugin_${number} MODULE storm_plugin.c)
    target_compile_definitions(storm_plugin_${number} PRIVATE PLUGIN=${number})
    target_compile_options(storm_plugin_${number} PRIVATE -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -fno-sanitize=all)
    target_link_options(storm_plugin_${number} PRIVATE -fno-sanitize=all)
    add_dependencies(storm_target storm_plugin_${number})
endforeach()

set(storm "${CMAKE_CURRENT_SOURCE_DIR}/storm_test.py" --memleak "$<TARGET_FILE:memleak_dwunw_user>"
          --target "$<TARGET_FILE:storm_target>" --plugins "$<TARGET_FILE_DIR:storm_plugin_0>")
add_test(NAME integration.storm_has_no_wrong_stack COMMAND ${storm} --seconds 15)
set_tests_properties(integration.storm_has_no_wrong_stack PROPERTIES LABELS integration TIMEOUT 300 SKIP_RETURN_CODE 77 RUN_SERIAL ON)
add_test(NAME storm.plugins_threads_children CONFIGURATIONS storm COMMAND ${storm})
set_tests_properties(storm.plugins_threads_children PROPERTIES LABELS storm TIMEOUT 3600 SKIP_RETURN_CODE 77 RUN_SERIAL ON)
# Each allocation is a record here: on a machine that stops the tool for a tenth of a second, the ring buffer fills.
add_test(NAME integration.storm_walked_in_user_space COMMAND ${storm} --seconds 10 --most-lost 0.02 -- --dwunw-walk=user)
set_tests_properties(integration.storm_walked_in_user_space PROPERTIES
    LABELS integration TIMEOUT 300 SKIP_RETURN_CODE 77 RUN_SERIAL ON)

# Thousands of executable mappings, below and above the number that can be published.
add_executable(many_mappings_target many_mappings_target.c)
target_compile_options(many_mappings_target PRIVATE -O2 -fomit-frame-pointer -fno-optimize-sibling-calls -fno-sanitize=all)
target_link_options(many_mappings_target PRIVATE -rdynamic -fno-sanitize=all)
target_link_libraries(many_mappings_target PRIVATE ${CMAKE_DL_LIBS})
add_dependencies(many_mappings_target storm_target)
foreach(mappings IN ITEMS 8000 9000 20000)
    add_test(NAME integration.mappings_${mappings}_are_walked
        COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/many_mappings_test.py" "$<TARGET_FILE:bpf_walk_user>"
                "$<TARGET_FILE:many_mappings_target>" "$<TARGET_FILE_DIR:storm_plugin_0>" ${mappings})
    set_tests_properties(integration.mappings_${mappings}_are_walked PROPERTIES
        LABELS integration TIMEOUT 180 SKIP_RETURN_CODE 77 RESOURCE_LOCK many_mappings_target)
endforeach()
