# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# ARCH (uname -m's names; default: this machine's) and CROSS_COMPILE (a compiler prefix, e.g. aarch64-linux-gnu-).
set(CROSS_COMPILE "" CACHE STRING "Prefix of the cross compiler, with its trailing dash")
if(NOT ARCH)
    cmake_host_system_information(RESULT host_arch QUERY OS_PLATFORM)
    set(ARCH "${host_arch}" CACHE STRING "Architecture the products run on" FORCE)
endif()

if(CROSS_COMPILE)
    set(CMAKE_SYSTEM_NAME Linux)
    set(CMAKE_SYSTEM_PROCESSOR "${ARCH}")
    set(CMAKE_C_COMPILER "${CROSS_COMPILE}gcc")
    set(CMAKE_CXX_COMPILER "${CROSS_COMPILE}g++")
    find_program(PKG_CONFIG_EXECUTABLE NAMES "${CROSS_COMPILE}pkg-config" pkg-config)
endif()
