// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A report saved to a file, to compare a later one with, perhaps of another run of the program.
//
//     {"format": "dwunw-memleak-1",
//      "stacks": [{"memory": "heap", "bytes": 3072, "count": 3,
//                  "frames": ["/usr/bin/demo+0x1139", "/usr/lib/x86_64-linux-gnu/libc.so.6+0x2724a"]}]}
//
// A frame is the path of its module and its address in the ELF file, so it is the same in each run of the same files. A
// frame without a module is "?".
#pragma once

#include "memleak/rows.h"

#include <cstdint>
#include <map>
#include <string>

namespace dwunw_tool::memleak {

class Baseline {
  public:
    struct Entry {
        uint64_t bytes = 0, count = 0;
    };

    // Reads a file. Returns the problem; empty: none.
    std::string read(const std::string &path);
    // Replaces the file by these rows, at once: a reader sees the old file or the new one.
    static std::string write(const std::string &path, const Rows &rows);

    // What the file has for a row. Zero: the row is not in it.
    Entry find(const Rows &rows, const Row &row) const;

  private:
    std::map<std::string, Entry> entries_; // by memory and frames, a line each
};

} // namespace dwunw_tool::memleak
