# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# What `make install` puts where: headers, the libraries, a CMake package (dwunw::dwunw, dwunw::shared, dwunw::symbolize,
# dwunw::bpf, dwunw::probe), pkg-config files (dwunw, dwunw-shared, dwunw-symbolize, dwunw-bpf, dwunw-probe), the licences
# and the pages for users. Tools install themselves and their man pages in their own folders. The packages find everything
# relative to themselves: an installed tree can be moved, and a DESTDIR can be used in place.
include(CMakePackageConfigHelpers)

set(dwunw_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/dwunw")

install(DIRECTORY include/dwunw DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
set_target_properties(dwunw_shared PROPERTIES EXPORT_NAME shared)
install(TARGETS dwunw dwunw_shared EXPORT dwunwTargets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT dwunwTargets NAMESPACE dwunw:: DESTINATION "${dwunw_package_dir}")

# A package of its own, so that a project that only unwinds needs no elfutils.
set_target_properties(dwunw_symbolize PROPERTIES EXPORT_NAME symbolize)
install(TARGETS dwunw_symbolize EXPORT dwunwSymbolizeTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT dwunwSymbolizeTargets NAMESPACE dwunw:: DESTINATION "${dwunw_package_dir}")

# Likewise: a project that only unwinds needs no libbpf, and one that walks in BPF needs no Zydis.
set_target_properties(dwunw_bpf PROPERTIES EXPORT_NAME bpf)
install(TARGETS dwunw_bpf EXPORT dwunwBpfTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT dwunwBpfTargets NAMESPACE dwunw:: DESTINATION "${dwunw_package_dir}")
set_target_properties(dwunw_probe PROPERTIES EXPORT_NAME probe)
install(TARGETS dwunw_probe EXPORT dwunwProbeTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT dwunwProbeTargets NAMESPACE dwunw:: DESTINATION "${dwunw_package_dir}")

configure_package_config_file(cmake/dwunwConfig.cmake.in "${PROJECT_BINARY_DIR}/cmake/dwunwConfig.cmake"
    INSTALL_DESTINATION "${dwunw_package_dir}" NO_SET_AND_CHECK_MACRO)
# Before 1.0 the minor version counts as the major one does after.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/cmake/dwunwConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES
    "${PROJECT_BINARY_DIR}/cmake/dwunwConfig.cmake"
    "${PROJECT_BINARY_DIR}/cmake/dwunwConfigVersion.cmake"
    DESTINATION "${dwunw_package_dir}")

# pkg-config's ${pcfiledir} is this file's folder: the way up from it to the prefix.
cmake_path(SET pc_dir NORMALIZE "/${CMAKE_INSTALL_LIBDIR}/pkgconfig")
cmake_path(RELATIVE_PATH pc_dir BASE_DIRECTORY "/" OUTPUT_VARIABLE pc_depth)
string(REGEX REPLACE "[^/]+" ".." DWUNW_PC_TO_PREFIX "${pc_depth}")
foreach(package IN ITEMS dwunw dwunw-shared dwunw-symbolize dwunw-bpf dwunw-probe)
    configure_file(cmake/${package}.pc.in "${PROJECT_BINARY_DIR}/cmake/${package}.pc" @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/cmake/${package}.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endforeach()

install(DIRECTORY LICENSES DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(FILES README.md CHANGELOG.md DESTINATION "${CMAKE_INSTALL_DOCDIR}")
foreach(page IN ITEMS architecture bpf_stacks c_api glossary memleak table_format)
    install(FILES "doc/${page}.md" DESTINATION "${CMAKE_INSTALL_DOCDIR}/doc")
endforeach()

# The last step: it looks at what the others have installed.
if(DWUNW_STRIP)
    if(NOT CMAKE_STRIP)
        message(FATAL_ERROR "no strip was found for ${CMAKE_C_COMPILER}: install binutils, or pass -DDWUNW_STRIP=0")
    endif()
    install(CODE "set(DWUNW_STRIP_PROGRAM \"${CMAKE_STRIP}\")")
    install(SCRIPT cmake/StripInstalled.cmake)
endif()
