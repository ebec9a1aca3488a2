// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process's mappings, from the text of /proc/PID/maps (proc(5); the kernel's show_map_vma).
//
// Immutable after parse(): any number of threads may look addresses up. Lookup allocates nothing.
#pragma once

#include "base/address.h"
#include "base/result.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace dwunw::process {

// Far more than a process can have: vm.max_map_count is 65,530 by default, and 256 MiB are some 2.5 million lines.
inline constexpr size_t kMaxMapsBytes = size_t{256} << 20;

struct Mapping {
    enum class Kind : uint8_t {
        kFile,             // a file, also a memfd or one in /dev/shm
        kVdso,             // "[vdso]"
        kUprobeTrampoline, // "[uprobes]", and Linux 6.18's "[uprobes-trampoline]"
        kAnonymous,        // no file: without a name, or "[heap]", "[stack]", "[anon:…]", "[vsyscall]" …
    };

    RunAddr start;
    RunAddr end; // exclusive
    FileOffset offset;
    uint64_t inode = 0;
    uint32_t device_major = 0;
    uint32_t device_minor = 0;
    bool readable = false;
    bool writable = false;
    bool executable = false;
    bool shared = false;
    // The map says " (deleted)". A file's own name may also end so; `path` keeps these words in both cases.
    bool deleted = false;
    Kind kind = Kind::kAnonymous;
    std::string_view path; // as shown, newlines unescaped; lives as long as its Maps

    bool contains(RunAddr address) const { return address >= start && address < end; }
    bool same_file(const Mapping &other) const {
        return inode == other.inode && device_major == other.device_major && device_minor == other.device_minor &&
               path == other.path;
    }
    // The same line of the map.
    bool operator==(const Mapping &) const = default;
    // A file in memory: JIT compilers place code there that is not an ELF image.
    bool is_memory_file() const;
};

class Maps {
  public:
    enum class Order : uint8_t {
        // A text from a caller. Malformed: a mapping that begins before the end of the one before; a path that does not
        // begin at the root, which could be any file's.
        kStrict,
        // The kernel writes the map piece by piece, and mappings may merge or move between two pieces. If two overlap,
        // the later line is the newer one, and the earlier one loses the common part.
        kLive,
    };

    Maps() = default;

    // DWUNW_ERR_MAPS_MALFORMED with the line's number, counted from 1; DWUNW_ERR_LIMIT above kMaxMapsBytes. An empty
    // text is an empty map.
    static Result<Maps> parse(std::vector<char> text, Order order);

    // From mappings that are known from elsewhere: ascending, not overlapping; their paths are views of `text`.
    static Maps assemble(std::vector<Mapping> mappings, std::vector<char> text);

    // Reads an open /proc/PID/maps from its beginning. DWUNW_ERR_NO_PROCESS: the process is gone. The map is empty if
    // the address space is gone: the process has exited and was not reaped, or has executed another program.
    static Result<Maps> read(int maps_fd);

    const std::vector<Mapping> &mappings() const { return mappings_; }
    // The mapping that holds an address; nullptr if none does.
    const Mapping *find(RunAddr address) const;
    // Whether an address is in an executable mapping. Most numbers that a walk asks about are not addresses.
    bool is_code(RunAddr address) const {
        const auto above = std::ranges::upper_bound(code_, address.value, {}, &CodeRange::start);
        return above != code_.begin() && address.value < std::prev(above)->end;
    }
    // The numbers of all mappings of the same file, ascending. The first call sorts the mappings by file.
    std::span<const uint32_t> of_same_file(const Mapping &mapping) const;
    size_t index_of(const Mapping &mapping) const { return static_cast<size_t>(&mapping - mappings_.data()); }

  private:
    void index();

    std::vector<char> text_; // the paths are views of it
    std::vector<Mapping> mappings_;
    struct CodeRange {
        uint64_t start;
        uint64_t end;
    };
    std::vector<CodeRange> code_;  // the executable mappings; adjacent ones are one range
    std::vector<uint64_t> starts_; // of mappings_; a search reads only these
    struct ByFile {
        std::mutex mutex;
        std::vector<uint32_t> numbers; // of mappings_, grouped by file
    };
    std::shared_ptr<ByFile> by_file_ = std::make_shared<ByFile>();
};

// Asks the kernel for one mapping, by address (the PROCMAP_QUERY ioctl, Linux 6.11). Takes about a microsecond.
struct MappingQuery {
    enum class Outcome : uint8_t { kFound, kUnmapped, kGone, kUnsupported } outcome = Outcome::kUnsupported;
    Mapping mapping; // kFound: everything except the path and its consequences
};
MappingQuery query_mapping(int maps_fd, RunAddr address);

} // namespace dwunw::process
