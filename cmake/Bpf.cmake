# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
#   dwunw_add_bpf_skeleton(<target> <file.bpf.c> [NAME <name>] [INCLUDES <dir>…] [OPTIONS <clang option>…])
#
# Compiles a BPF program and adds its skeleton to <target>, which then can `#include "file.skel.h"`. The skeleton's
# functions are called <name>__open and so on; without NAME they are bpftool's, `file_bpf`. The program sees libbpf's
# headers, the project's include/, its own folder, and the system's.
#
# CLANG and BPFTOOL choose the tools. Debian puts bpftool into /usr/sbin, which a plain user's PATH leaves out.
find_program(CLANG NAMES clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14 DOC "clang with the bpf target")
find_program(BPFTOOL NAMES bpftool PATHS /usr/sbin /usr/local/sbin /sbin DOC "bpftool, for skeletons")

# The name of an architecture in bpf_tracing.h.
set(dwunw_bpf_arch_x86_64 x86)
set(dwunw_bpf_arch_aarch64 arm64)
set(DWUNW_BPF_ARCH "${dwunw_bpf_arch_${ARCH}}")

function(dwunw_add_bpf_skeleton target source)
    cmake_parse_arguments(PARSE_ARGV 2 arg "" "NAME" "INCLUDES;OPTIONS")
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "dwunw_add_bpf_skeleton: unexpected ${arg_UNPARSED_ARGUMENTS}")
    endif()
    foreach(tool IN ITEMS CLANG BPFTOOL)
        if(NOT ${tool})
            message(FATAL_ERROR "${source} needs ${tool}, which was not found: run scripts/setup, or pass ${tool}=/path")
        endif()
    endforeach()
    if(NOT DWUNW_BPF_ARCH)
        message(FATAL_ERROR "${source}: no BPF programs for ARCH=${ARCH}")
    endif()

    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" OUTPUT_VARIABLE source_path)
    cmake_path(GET source_path FILENAME file)
    cmake_path(GET source_path PARENT_PATH folder)
    string(REGEX REPLACE "\\.bpf\\.c$" "" stem "${file}")
    if(stem STREQUAL file)
        message(FATAL_ERROR "dwunw_add_bpf_skeleton: ${source} is not named *.bpf.c")
    endif()
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${stem}.bpf.o")
    set(unlinked "${CMAKE_CURRENT_BINARY_DIR}/${stem}.unlinked.bpf.o")
    set(skeleton "${CMAKE_CURRENT_BINARY_DIR}/${stem}.skel.h")

    list(TRANSFORM arg_INCLUDES PREPEND -I)
    # -ffreestanding: <stdint.h> is then clang's own. glibc's does not know the BPF machine.
    set(machine -target bpf -ffreestanding "-D__TARGET_ARCH_${DWUNW_BPF_ARCH}")
    set(warnings -Wall -Wextra -Wno-unused-parameter) # BPF_KPROBE declares a ctx that few programs use
    if(DWUNW_WERROR)
        list(APPEND warnings -Werror)
    endif()
    # clang -target bpf does not search the multiarch folder, which has <asm/types.h>.
    set(system_includes)
    if(CMAKE_LIBRARY_ARCHITECTURE)
        set(system_includes -idirafter "/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}")
    endif()
    set(name_arguments)
    if(arg_NAME)
        set(name_arguments name "${arg_NAME}")
    endif()

    add_custom_command(
        OUTPUT "${unlinked}"
        COMMAND "${CLANG}" ${machine} -g -O2 -std=gnu11 ${warnings}
                ${arg_OPTIONS} ${arg_INCLUDES} "-I${folder}" "-I${PROJECT_SOURCE_DIR}/include" ${DWUNW_LIBBPF_CFLAGS}
                ${system_includes} -MD -MT "${unlinked}" -MF "${unlinked}.d" -c "${source_path}" -o "${unlinked}"
        DEPENDS "${source_path}"
        DEPFILE "${unlinked}.d"
        COMMENT "Compiling BPF program ${stem}.bpf.c"
        VERBATIM)
    # `gen object` drops the DWARF that clang -g writes beside the BTF; otherwise the skeleton would contain it.
    add_custom_command(
        OUTPUT "${skeleton}"
        BYPRODUCTS "${object}"
        COMMAND "${BPFTOOL}" gen object "${object}" "${unlinked}"
        COMMAND "${BPFTOOL}" gen skeleton "${object}" ${name_arguments} > "${skeleton}.tmp"
        COMMAND "${CMAKE_COMMAND}" -E rename "${skeleton}.tmp" "${skeleton}"
        DEPENDS "${unlinked}"
        COMMENT "Generating ${stem}.skel.h"
        VERBATIM)
    target_sources(${target} PRIVATE "${skeleton}")
    target_include_directories(${target} SYSTEM PRIVATE "${CMAKE_CURRENT_BINARY_DIR}")
endfunction()
