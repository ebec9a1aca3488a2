// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A module's separate debug file. It is found only by build-id, as for names: no path in the target's file chooses what
// is opened. A file can claim another file's build-id; then its own code gets that file's CFI.
#pragma once

#include "base/result.h"
#include "elf/image.h"
#include "process/file_source.h"

#include <memory>
#include <span>
#include <string>

namespace dwunw::process {

// The caller's folder, not the target's, which may have another root.
inline constexpr const char *kDebugRoot = "/usr/lib/debug";

struct DebugFile {
    std::shared_ptr<const FileSource> source;
    elf::Image image;

    // Opens ROOT/.build-id/ab/cdef….debug, if it has this build-id. DWUNW_ERR_NO_FILE: there is none, or the build-id
    // is empty; LocatedFile's and elf::Image::parse's errors; DWUNW_ERR_MODULE_CHANGED: the file has another build-id.
    static Result<DebugFile> open(const std::string &root, std::span<const uint8_t> build_id);
};

} // namespace dwunw::process
