// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stops exceptions at the C ABI. The library itself throws none, but the containers that it uses throw when memory runs
// out.
#pragma once

#include <dwunw/dwunw_api.h>

#include <new>
#include <stdexcept>
#include <system_error>

namespace dwunw {

template <typename Body> dwunw_status guarded(Body body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return DWUNW_ERR_OUT_OF_MEMORY;
    } catch (const std::length_error &) { // a size no memory could hold
        return DWUNW_ERR_OUT_OF_MEMORY;
    } catch (const std::system_error &) { // a lock the system refused
        return DWUNW_ERR_IO;
    }
}

} // namespace dwunw
