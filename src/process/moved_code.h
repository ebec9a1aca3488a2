// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds code that a program has copied to memory without a file, at the same addresses, to have it in large pages (node
// --use-largepages, ClickHouse) or independent of the disk:
//
//     r-xp /usr/bin/node     ← the neighbour: it gives the load bias
//     r-xp (no file)         ← moved code, if it lies within an executable segment and all bytes are the file's
//     r--p /usr/bin/node
//
// The map shows anonymous memory in a hole of the file's image. That proves nothing: a JIT compiler's code may also lie
// there. So two things are checked. A neighbouring mapping of the file says where the file's segments belong; the
// memory must lie within an executable one of them, with the same bias. And every byte must be the file's. Writable
// memory is never moved code, because it may change at any time.
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

// The mappings beside `mapping` whose file's code it may be, at most one on each side. Empty: it cannot be moved code.
std::vector<const Mapping *> moved_code_neighbours(const Maps &maps, const Mapping &mapping);

// The part of a file that `mapping` holds if it is the image's code with this bias.
struct MovedCode {
    FileOffset offset;   // of the mapping's first byte
    uint64_t length = 0; // up to the end of the segment or of the mapping
};
// nullopt: the mapping does not lie within an executable segment.
std::optional<MovedCode> place_moved_code(const elf::Image &image, LoadBias bias, const Mapping &mapping);

// Whether the memory from `start` on is equal to the file. Reads all of it.
bool same_bytes(const Target &target, RunAddr start, const ByteSource &file, const MovedCode &code);
// The same for the page that holds `address`.
bool same_page(const Target &target, RunAddr start, const ByteSource &file, const MovedCode &code, RunAddr address);

} // namespace dwunw::process
