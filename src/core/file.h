// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The structure of a core file, from bytes: segments, threads, mapped files, auxiliary vector (System V gABI, chapter
// 5; Linux's core notes, core_layout.h).
//
// Nothing in a core is trusted: kMax… and the file's size bound every count. A core that is truncated in its memory
// still opens, because its notes come first; the missing memory cannot be read. Immutable after parse(); thread-safe.
#pragma once

#include "arch/kernel_registers.h"
#include "base/address.h"
#include "base/byte_source.h"
#include "base/result.h"

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dwunw::core {

// A process has at most vm.max_map_count mappings, 65,530 by default, and a kernel's core has a segment for each.
inline constexpr uint64_t kMaxCoreSegments = 1 << 20;
// 32,768 threads with AVX-512 state take some 128 MB.
inline constexpr uint64_t kMaxCoreNoteBytes = uint64_t{512} << 20;

class CoreFile {
  public:
    // A PT_LOAD. The core has its first `file_size` bytes, and not the rest.
    struct Segment {
        RunAddr start;
        uint64_t memory_size = 0;
        uint64_t file_size = 0;
        FileOffset offset;
        bool readable = false;
        bool writable = false;
        bool executable = false;
        RunAddr end() const { return start + memory_size; }
    };
    struct Thread {
        pid_t tid = 0;
        arch::CoreRegisters registers{};
    };
    // A line of NT_FILE.
    struct MappedFile {
        RunAddr start;
        RunAddr end;
        FileOffset offset;
        std::string path;
    };

    // DWUNW_ERR_NOT_ELF (also: an ELF file that is not a core), DWUNW_ERR_UNSUPPORTED_ARCH, DWUNW_ERR_ELF_MALFORMED
    // (also: a core without a thread), DWUNW_ERR_LIMIT.
    static Result<CoreFile> parse(std::shared_ptr<const ByteSource> source);

    pid_t pid() const { return pid_; }
    const std::string &name() const { return name_; }                      // comm of the main thread; "": unknown
    const std::vector<Thread> &threads() const { return threads_; }        // in the core's order
    const std::vector<Segment> &segments() const { return segments_; }     // ascending, not overlapping
    const std::vector<MappedFile> &mapped_files() const { return files_; } // ascending, not overlapping
    std::optional<uint64_t> auxiliary(uint64_t type) const;                // AT_…

    // The segment that holds an address; nullptr if none does.
    const Segment *segment_at(RunAddr address) const;
    // Reads from `address` up to the first byte that the core does not have. Returns the number of bytes read.
    size_t read(RunAddr address, std::span<uint8_t> buffer) const;
    // Whether the core has all bytes of [start, end).
    bool holds(RunAddr start, RunAddr end) const;

  private:
    Status parse_notes(std::span<const uint8_t> bytes);
    Status parse_note(uint32_t type, std::span<const uint8_t> description);
    Status parse_file_note(std::span<const uint8_t> description);
    Status add_segments(std::span<const uint8_t> table);

    std::shared_ptr<const ByteSource> source_;
    std::vector<Segment> segments_;
    std::vector<Thread> threads_;
    std::vector<MappedFile> files_;
    std::vector<std::pair<uint64_t, uint64_t>> auxiliary_;
    pid_t pid_ = 0;
    std::string name_;
    bool has_files_ = false;
    bool has_process_info_ = false;
};

} // namespace dwunw::core
