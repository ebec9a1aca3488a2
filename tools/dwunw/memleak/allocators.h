// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which functions of which files of a process allocate and free.
//
//     /usr/lib/x86_64-linux-gnu/libc.so.6    malloc calloc … free mmap munmap mremap longjmp
//     /usr/bin/redis-server                  malloc calloc … free _Znwm _ZdlPv …   (jemalloc, linked into the program)
//
// A file is asked for the functions by name, under every known prefix. It counts as an allocator if it defines malloc,
// or both PREFIXmalloc and PREFIXfree. Only then its operator new and delete are probed, too: elsewhere they call
// malloc and free, and probes on both would cost twice. glibc's dynamic linker has a malloc for itself, which is left
// out.
#pragma once

#include "memleak/functions.h"

#include <dwunw/bpf_attach.h>
#include <dwunw/probe_placement.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dwunw_tool::memleak {

// An executable mapping of a file.
struct MappedFile {
    uint64_t start = 0, end = 0;
    uint64_t device = 0, inode = 0;
    std::string path; // as the process sees it
};

// A function that is to be probed.
struct Site {
    std::string symbol;
    std::string reason;         // why the probe sits there
    dwunw_attach_point point{}; // with its cookie
    bool by_instruction = false;
};

// What was found in a file.
struct Allocator {
    std::vector<Site> sites;
    std::vector<std::string> problems; // functions that cannot be probed, and why
    std::string prefix;                // of the functions' names
    bool has_heap = false;             // malloc and free
    bool is_only_allocator = false;    // it has nothing else: what it maps, it maps for itself
};

// The executable mappings of a process's files, each file once. Empty: the process has no map, or may not be read.
std::vector<MappedFile> mapped_files(int32_t pid);

// A path by which the kernel and this program reach a file of a process: also if it was deleted, or lies in another
// mount namespace. Empty: there is none.
std::string reachable_path(int32_t pid, const MappedFile &file);

// Looks for allocators in a file. `prefix` (may be null): only functions with this prefix. `all_by_instruction`: the
// kernel has no sessions, so every return is seen at return instructions.
Allocator find_allocator(const std::string &path, const std::string *prefix, bool all_by_instruction);

// The points of the functions whose returns are seen at return instructions, or of the others.
std::vector<dwunw_attach_point> points_of(const Allocator &allocator, bool by_instruction);

// If the file is a dynamic linker: the file offset of the function that it calls when it has loaded libraries.
std::optional<uint64_t> linker_notification(const std::string &path);

} // namespace dwunw_tool::memleak
