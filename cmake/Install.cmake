# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
install(TARGETS dwunw EXPORT dwunwTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
