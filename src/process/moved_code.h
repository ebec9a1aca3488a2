// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Code of a file that a program has moved to memory without one, at the same place: to have it in large pages (node
// --use-largepages, ClickHouse), or away from the disk.
//
// The map then shows a hole in the file's image, with anonymous memory in it. That alone says nothing: a JIT compiler's
// code may lie there just as well. So two things are asked. A mapping beside it is the file's and says where the file's
// segments belong; the memory has to lie within an executable one of them, by the same bias. And every byte of it has
// to be the file's. What can be written to is never taken for moved code, since it may change at any time.
//
// Thread-safe; stateless.
#pragma once

#include "elf/image.h"
#include "process/maps.h"
#include "process/target.h"

#include <optional>
#include <span>
#include <vector>

namespace dwunw::process {

// The mappings beside `mapping` whose file's code it may be, at most one on each side. Empty where it cannot be moved
// code.
std::vector<const Mapping *> moved_code_neighbours(const Maps &maps, const Mapping &mapping);

// What of the file `mapping` would hold if it were the image's code, placed by `bias`.
struct MovedCode {
    FileOffset offset;   // of the mapping's first byte
    uint64_t length = 0; // from there on, to the end of the segment or of the mapping
};
// nullopt where the mapping does not lie within an executable segment.
std::optional<MovedCode> place_moved_code(const elf::Image &image, LoadBias bias, const Mapping &mapping);

// Whether the memory from `start` on holds the same bytes as the file. Reads all of them.
bool same_bytes(const Target &target, RunAddr start, const ByteSource &file, const MovedCode &code);
// The same of the page that holds `address` alone.
bool same_page(const Target &target, RunAddr start, const ByteSource &file, const MovedCode &code, RunAddr address);

} // namespace dwunw::process
