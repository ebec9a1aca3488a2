# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The compiled table beside readelf: on large libraries, on small and odd files, and on a sample of what is installed;
# `make test-exhaustive` runs it on all of that.
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

add_test(NAME integration.table_equals_readelf
    COMMAND ${compare_tables} --rows 20000 "${libraries}/libc.so.6" "${libraries}/libstdc++.so.6"
            "${libraries}/libpython3.11.so.1.0" "${libraries}/libcrypto.so.3" /usr/bin/gdb)
# The dynamic linker with its signal trampoline, and this build; libdw reads every row as well.
add_test(NAME integration.table_equals_readelf_and_libdw
    COMMAND ${compare_tables} --rows 20 --judge-all /lib64/ld-linux-x86-64.so.2 "${libraries}/libgcc_s.so.1"
            "${libraries}/libm.so.6" /bin/ls "$<TARGET_FILE:dwunw_tool>")
add_test(NAME integration.table_equals_readelf_sample
    COMMAND ${compare_tables} --rows 1 --every 20 ${installed})
add_test(NAME integration.table_compare_sees_a_wrong_row
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/table_compare_sees_a_wrong_row" ${compare_tables} /bin/ls)
add_test(NAME exhaustive.table_equals_readelf CONFIGURATIONS exhaustive
    COMMAND ${compare_tables} --rows 1 ${installed})

set_tests_properties(
    integration.table_equals_readelf integration.table_equals_readelf_and_libdw
    integration.table_equals_readelf_sample integration.table_compare_sees_a_wrong_row PROPERTIES
    LABELS integration TIMEOUT 300)
set_tests_properties(exhaustive.table_equals_readelf PROPERTIES LABELS exhaustive TIMEOUT 5400 PROCESSORS 2)
