# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The libraries that the project uses, as targets:
#   ZLIB::ZLIB, PkgConfig::libzstd   the core (compressed sections)
#   PkgConfig::libdw, liblzma        src/symbolize
#   Zydis::Zydis                     src/probe (a disassembler)
#   dwunw_libbpf                     src/bpf, examples and BPF tools; honours LIBBPF_CFLAGS and LIBBPF_LDLIBS
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(libzstd REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(libdw REQUIRED IMPORTED_TARGET libdw)
pkg_check_modules(liblzma REQUIRED IMPORTED_TARGET liblzma)
find_package(zydis 4 REQUIRED)

add_library(dwunw_libbpf INTERFACE)
if(LIBBPF_CFLAGS OR LIBBPF_LDLIBS)
    separate_arguments(DWUNW_LIBBPF_CFLAGS UNIX_COMMAND "${LIBBPF_CFLAGS}")
    separate_arguments(libbpf_ldlibs UNIX_COMMAND "${LIBBPF_LDLIBS}")
    if(NOT libbpf_ldlibs)
        set(libbpf_ldlibs -lbpf)
    endif()
    target_compile_options(dwunw_libbpf INTERFACE ${DWUNW_LIBBPF_CFLAGS})
    target_link_libraries(dwunw_libbpf INTERFACE ${libbpf_ldlibs})
else()
    pkg_check_modules(libbpf REQUIRED IMPORTED_TARGET libbpf>=1.1)
    set(DWUNW_LIBBPF_CFLAGS ${libbpf_CFLAGS})
    target_link_libraries(dwunw_libbpf INTERFACE PkgConfig::libbpf)
endif()
