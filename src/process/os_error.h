// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// errno as a typed error. Error.value is the errno if the status alone does not tell it.
#pragma once

#include "base/result.h"

#include <cerrno>

namespace dwunw::process {

inline Error error_from_errno(int number) {
    const auto value = static_cast<uint64_t>(number);
    switch (number) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
        return Error{DWUNW_ERR_NO_FILE, value};
    case ESRCH:
        return Error{DWUNW_ERR_NO_PROCESS, value};
    case EACCES:
    case EPERM:
        return Error{DWUNW_ERR_PERMISSION, value};
    case EMFILE:
    case ENFILE:
        return Error{DWUNW_ERR_TOO_MANY_FILES, value};
    case ENOMEM:
        return Error{DWUNW_ERR_OUT_OF_MEMORY, value};
    default:
        return Error{DWUNW_ERR_IO, value};
    }
}

} // namespace dwunw::process
