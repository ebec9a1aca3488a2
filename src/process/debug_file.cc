// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/debug_file.h"

#include <algorithm>

namespace dwunw::process {

Result<DebugFile> DebugFile::open(const std::string &root, std::span<const uint8_t> build_id) {
    if (build_id.size() < 2)
        return Error{DWUNW_ERR_NO_FILE};
    constexpr char kDigits[] = "0123456789abcdef";
    std::string path = root + "/.build-id/";
    for (size_t i = 0; i < build_id.size(); ++i) {
        path += kDigits[build_id[i] >> 4];
        path += kDigits[build_id[i] & 0xf];
        if (i == 0)
            path += '/';
    }
    auto source = FileSource::open((path + ".debug").c_str());
    if (!source)
        return source.error();
    DebugFile file;
    file.source = std::make_shared<const FileSource>(std::move(*source));
    auto image = elf::Image::parse(*file.source);
    if (!image)
        return image.error();
    file.image = std::move(*image);
    if (!std::ranges::equal(file.image.build_id(), build_id))
        return Error{DWUNW_ERR_MODULE_CHANGED};
    return file;
}

} // namespace dwunw::process
