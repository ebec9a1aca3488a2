# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Tests of src/base, src/elf, src/dwarf and src/arch: bytes in, values or typed errors out.
foreach(name IN ITEMS abi_guarded abi_sized abi_sized_structs arch_x86_64 arch_x86_64_code_flow arch_x86_64_encoding
                      arch_x86_64_frame_begins arch_x86_64_instruction
                      arch_x86_64_lost_sp arch_x86_64_register_writes arch_x86_64_sp_instruction base_budget base_clock
                      base_cursor
                      base_lazy_section base_pages base_printable dwarf_cfi_program
                      dwarf_cfi_section dwarf_eh_frame_hdr dwarf_encoded_pointer
                      dwarf_expression elf_decompress elf_dynamic elf_function_symbols elf_image elf_image_limits)
    set(test ${name}_test)
    add_executable(${test} ${test}.cc)
    target_include_directories(${test} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${test} PRIVATE dwunw GTest::gtest_main ZLIB::ZLIB PkgConfig::libzstd)
    gtest_discover_tests(${test} TEST_PREFIX unit. PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
target_link_libraries(abi_sized_structs_test PRIVATE dwunw_probe dwunw_symbolize) # whose functions it calls, too
# A second decoder, to compare with.
target_link_libraries(arch_x86_64_encoding_test PRIVATE Zydis::Zydis)
target_link_libraries(arch_x86_64_sp_instruction_test PRIVATE Zydis::Zydis)
# The test decodes libcrypto and libm, and compares with a disassembler; it does not call them.
find_library(CRYPTO_LIBRARY NAMES libcrypto.so.3 REQUIRED)
target_link_libraries(arch_x86_64_register_writes_test PRIVATE Zydis::Zydis -Wl,--no-as-needed "${CRYPTO_LIBRARY}" m
                                                              -Wl,--as-needed)
target_link_libraries(arch_x86_64_instruction_test PRIVATE Zydis::Zydis)
