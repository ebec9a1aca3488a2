// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The ELF files under a directory, by kind.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace table_readelf {

struct ElfFile {
    std::string path;
    uint64_t size = 0;
};

class ElfFiles {
  public:
    // A file, or every regular file under a directory, symbolic links to files followed. Throws
    // std::filesystem::filesystem_error on what cannot be looked at.
    void add(const std::string &path);

    std::vector<ElfFile> comparable; // x86-64, linked
    // Those left out, by kind: "relocatable", "32-bit", "aarch64", …
    std::map<std::string, uint64_t> other;
    uint64_t links = 0; // a file met again under another name

  private:
    void add_file(const std::string &path);
    std::set<std::pair<uint64_t, uint64_t>> seen_; // device, inode
};

} // namespace table_readelf
