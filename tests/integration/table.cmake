# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Compares the compiled table with readelf: on large libraries, on small and odd files, and on some installed files;
# `make test-exhaustive` runs it on every installed file.
find_package(Threads REQUIRED)
add_executable(table_readelf
    table_readelf/command_lines.cc
    table_readelf/compare.cc
    table_readelf/dwunw_table.cc
    table_readelf/elf_files.cc
    table_readelf/judge.cc
    table_readelf/main.cc
    table_readelf/readelf_dump.cc
    ../support/reference_cfi.cc)
target_include_directories(table_readelf PRIVATE ../support)
target_link_libraries(table_readelf PRIVATE PkgConfig::libdw elf Threads::Threads)

set(libraries "/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}")
set(compare_tables "$<TARGET_FILE:table_readelf>" --dwunw "$<TARGET_FILE:dwunw_tool>")
set(installed /usr/bin /usr/sbin /usr/lib /usr/libexec)
set(sampled /usr/bin "${libraries}")

add_test(NAME integration.table_equals_readelf
    COMMAND ${compare_tables} --rows 20000 "${libraries}/libc.so.6" "${libraries}/libstdc++.so.6"
            "${libraries}/libpython3.11.so.1.0" "${libraries}/libcrypto.so.3" /usr/bin/gdb)
# The dynamic linker with its signal trampoline, and this build; libdw reads every row as well.
add_test(NAME integration.table_equals_readelf_and_libdw
    COMMAND ${compare_tables} --rows 20 --judge-all /lib64/ld-linux-x86-64.so.2 "${libraries}/libgcc_s.so.1"
            "${libraries}/libm.so.6" /bin/ls "$<TARGET_FILE:dwunw_tool>")
add_test(NAME integration.table_equals_readelf_sample
    COMMAND ${compare_tables} --rows 10000 --every 40 ${sampled})
# Which FDE is in force where several claim a place: .debug_frame as it is, and compressed.
set(fixture "${CMAKE_CURRENT_BINARY_DIR}/table_fixture")
add_custom_command(
    OUTPUT "${fixture}" "${fixture}.compressed"
    COMMAND "${CMAKE_C_COMPILER}" -nostdlib -static -no-pie -Wl,--no-eh-frame-hdr -o "${fixture}"
            "${CMAKE_CURRENT_SOURCE_DIR}/table_fixture.S"
    COMMAND "${CMAKE_OBJCOPY}" --compress-debug-sections=zlib "${fixture}" "${fixture}.compressed"
    DEPENDS table_fixture.S
    VERBATIM)
add_custom_target(table_fixtures ALL DEPENDS "${fixture}" "${fixture}.compressed")
add_test(NAME integration.table_equals_readelf_by_rule
    COMMAND ${compare_tables} --rows 6 "${fixture}" "${fixture}.compressed")
set_tests_properties(integration.table_equals_readelf_by_rule PROPERTIES
    PASS_REGULAR_EXPRESSION "tombstones +6\n.*covers +4\n.*start +2\n.*inside +2\n.*rows +12\n.*different +0\n")
add_test(NAME integration.table_compare_sees_a_wrong_row
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/table_compare_sees_a_wrong_row_test" ${compare_tables} /bin/ls)
add_test(NAME exhaustive.table_equals_readelf CONFIGURATIONS exhaustive
    COMMAND ${compare_tables} ${installed})

set_tests_properties(
    integration.table_equals_readelf integration.table_equals_readelf_and_libdw integration.table_equals_readelf_by_rule
    integration.table_equals_readelf_sample integration.table_compare_sees_a_wrong_row PROPERTIES
    LABELS integration TIMEOUT 300)
set_tests_properties(exhaustive.table_equals_readelf PROPERTIES LABELS exhaustive TIMEOUT 5400 PROCESSORS 2)
