# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The compiled table beside readelf, on the files a distribution ships: at least 20,000 rows each.
add_test(NAME integration.table_equals_readelf
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/table_readelf.py" --dwunw "$<TARGET_FILE:dwunw_tool>" --rows 20000
            libc.so.6 libstdc++.so.6 libpython3.11.so.1.0 libcrypto.so.3 /usr/bin/gdb)
# Small ones, odd ones: the dynamic linker with its signal trampoline, and this build.
add_test(NAME integration.table_equals_readelf_small
    COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/table_readelf.py" --dwunw "$<TARGET_FILE:dwunw_tool>" --rows 20
            /lib64/ld-linux-x86-64.so.2 libgcc_s.so.1 libm.so.6 /bin/ls "$<TARGET_FILE:dwunw_tool>")
set_tests_properties(integration.table_equals_readelf integration.table_equals_readelf_small PROPERTIES
    LABELS integration TIMEOUT 120)
