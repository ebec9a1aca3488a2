# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# Runs at the end of an install, with DWUNW_STRIP_PROGRAM. Removes the debug information from the installed archives, and
# every symbol that nothing links with from the installed programs and shared libraries. The build tree keeps both.
# A file's first bytes say what it is, wherever this install has put it. The file's time changes, so the next install
# copies it again, and DWUNW_STRIP=0 takes effect.
foreach(file IN LISTS CMAKE_INSTALL_MANIFEST_FILES)
    set(path "$ENV{DESTDIR}${file}")
    if(IS_SYMLINK "${path}")
        continue()
    endif()
    file(READ "${path}" magic LIMIT 4 HEX)
    if(magic STREQUAL "213c6172") # !<ar
        set(what --strip-debug)
    elseif(magic STREQUAL "7f454c46") # ELF
        set(what --strip-all)
    else()
        continue()
    endif()
    execute_process(COMMAND "${DWUNW_STRIP_PROGRAM}" ${what} "${path}" COMMAND_ERROR_IS_FATAL ANY)
endforeach()
