# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Languages, warnings and sanitizers, for every target of the project.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON) # the examples are Linux programs, in GNU C as libbpf-tools are
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_compile_options(
    -Wall -Wextra -Wshadow -Wformat=2 -Wundef -Wpointer-arith -Wcast-align
    "$<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor;-Woverloaded-virtual;-Wextra-semi>"
    "$<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes;-Wold-style-definition>")
# For the products written in C++: arithmetic on untrusted numbers must not lose bits by accident.
set(DWUNW_STRICT_WARNINGS -Wconversion -Wno-sign-conversion -Wmissing-declarations
    "$<$<CXX_COMPILER_ID:GNU>:-Wduplicated-cond;-Wlogical-op>")
if(DWUNW_WERROR)
    add_compile_options(-Werror)
endif()

if(DWUNW_SANITIZE OR DWUNW_FUZZ)
    # -fno-sanitize-recover: undefined behaviour ends the test, so that no message is missed.
    add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
    add_link_options(-fsanitize=address,undefined)
endif()
if(DWUNW_FUZZ)
    add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(DWUNW_TSAN)
    add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
    add_link_options(-fsanitize=thread)
endif()
