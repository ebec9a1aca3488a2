// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/allocators.h"

#include "command.h"
#include "memleak/kernel_types.h"

#include <sys/stat.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <map>
#include <unistd.h>

namespace dwunw_tool::memleak {
namespace {

using ProbeFile = Handle<dwunw_probe_file, dwunw_probe_file_close>;

// The file offset of a function's first byte.
std::optional<uint64_t> entry_of(const dwunw_probe_file *file, const std::string &symbol) {
    dwunw_probe_placement placement{};
    placement.size = sizeof placement;
    dwunw_probe_options options{};
    options.size = sizeof options;
    options.flags = DWUNW_PROBE_AT_ENTRY;
    if (dwunw_probe_place_symbol(file, symbol.c_str(), &options, &placement) != DWUNW_OK)
        return std::nullopt;
    return placement.file_offset;
}

// Adds the sites of one file.
class Finder {
  public:
    Finder(const dwunw_probe_file *file, Allocator &found, bool all_by_instruction)
        : file_(file), found_(found), all_by_instruction_(all_by_instruction) {}

    bool defines(const std::string &symbol) const { return entry_of(file_, symbol).has_value(); }

    void add(const Function &function, const std::string &prefix, uint64_t cookie_bits) {
        const std::string symbol = prefix + std::string(function.name);
        dwunw_probe_options options{};
        options.size = sizeof options;
        options.flags = DWUNW_PROBE_SKIP_MODULE_READS;
        options.arguments = function.arguments;
        dwunw_probe_placement placement{};
        placement.size = sizeof placement;
        const dwunw_status status = dwunw_probe_place_symbol(file_, symbol.c_str(), &options, &placement);
        if (status == DWUNW_ERR_NOT_FOUND)
            return;
        if (status != DWUNW_OK) {
            found_.problems.push_back(symbol + ": " + dwunw_status_string(status));
            return;
        }
        Site site{symbol, placement.reason, {}, function.returns && (function.throws || all_by_instruction_)};
        char why[256];
        size_t count = 0;
        if (site.by_instruction &&
            dwunw_probe_find_returns(file_, placement.file_offset, nullptr, 0, &count, why, sizeof why) != DWUNW_OK) {
            found_.problems.push_back(symbol + ": its returns are not known: " + why);
            return;
        }
        site.point.file_offset = placement.file_offset;
        site.point.cookie = function.cookie | cookie_bits | (site.by_instruction ? MEMLEAK_BY_INSTRUCTION : 0);
        site.point.when = DWUNW_ATTACH_AT_ENTRY | (function.returns ? DWUNW_ATTACH_AT_RETURN : 0);
        // Another name of the same function: one probe. If the two differ in kind, the kind says nothing.
        const auto same = std::find_if(found_.sites.begin(), found_.sites.end(), [&](const Site &other) {
            return other.point.file_offset == site.point.file_offset;
        });
        if (same == found_.sites.end())
            found_.sites.push_back(std::move(site));
        else if (MEMLEAK_KIND(same->point.cookie) != MEMLEAK_KIND(site.point.cookie))
            kinds_are_clear_ = false;
        if (MEMLEAK_OPERATION(function.cookie) == MEMLEAK_ALLOCATE && MEMLEAK_KIND(function.cookie) != MEMLEAK_HEAP)
            note_returns(placement.file_offset, MEMLEAK_KIND(function.cookie));
    }

    // Whether malloc, new and new[] can be told apart, and so can their opposites.
    bool kinds_are_clear() const { return kinds_are_clear_; }

  private:
    // A new[] that ends in a jump to new is seen as new.
    void note_returns(uint64_t probe_offset, uint64_t kind) {
        size_t count = 0;
        if (dwunw_probe_find_returns(file_, probe_offset, nullptr, 0, &count, nullptr, 0) != DWUNW_OK)
            return;
        std::vector<dwunw_probe_return> returns(count);
        if (dwunw_probe_find_returns(file_, probe_offset, returns.data(), count, &count, nullptr, 0) != DWUNW_OK)
            return;
        for (const dwunw_probe_return &one : returns)
            kinds_are_clear_ &= kind_of_return_.try_emplace(one.file_offset, kind).first->second == kind;
    }

    std::map<uint64_t, uint64_t> kind_of_return_;
    const dwunw_probe_file *file_;
    Allocator &found_;
    bool all_by_instruction_;
    bool kinds_are_clear_ = true;
};

constexpr uint64_t kAnyKind = 0xf;

// Nobody can say by which function a block was allocated: do not compare.
void forget_kinds(Allocator &found) {
    for (Site &site : found.sites) {
        site.point.cookie &= ~(UINT64_C(0xf) << 20);
        if (MEMLEAK_OPERATION(site.point.cookie) == MEMLEAK_FREE)
            site.point.cookie |= kAnyKind << 20;
    }
}

} // namespace

std::vector<MappedFile> mapped_files(int32_t pid) {
    std::vector<MappedFile> files;
    std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
    for (std::string line; std::getline(maps, line);) {
        MappedFile file;
        char permissions[8];
        unsigned int major = 0, minor = 0;
        int name = 0;
        if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %7s %*s %x:%x %" SCNu64 " %n", &file.start, &file.end,
                        permissions, &major, &minor, &file.inode, &name) != 6 ||
            permissions[2] != 'x' || file.inode == 0 || name <= 0 || static_cast<size_t>(name) >= line.size())
            continue;
        file.device = uint64_t(major) << 32 | minor;
        file.path = line.substr(static_cast<size_t>(name));
        const bool known = std::any_of(files.begin(), files.end(), [&](const MappedFile &other) {
            return other.inode == file.inode && other.device == file.device;
        });
        if (!known)
            files.push_back(std::move(file));
    }
    return files;
}

std::string reachable_path(int32_t pid, const MappedFile &file) {
    const std::string process = "/proc/" + std::to_string(pid);
    char range[64];
    std::snprintf(range, sizeof range, "/map_files/%" PRIx64 "-%" PRIx64, file.start, file.end);
    for (const std::string &path : {process + range, process + "/root" + file.path})
        if (::access(path.c_str(), R_OK) == 0)
            return path;
    return {};
}

std::vector<dwunw_attach_point> points_of(const Allocator &allocator, bool by_instruction) {
    std::vector<dwunw_attach_point> points;
    for (const Site &site : allocator.sites)
        if (site.by_instruction == by_instruction)
            points.push_back(site.point);
    return points;
}

std::optional<uint64_t> linker_notification(const std::string &path) {
    ProbeFile file;
    if (dwunw_probe_file_open(path.c_str(), Receive(file)) != DWUNW_OK)
        return std::nullopt;
    return entry_of(file.get(), "_dl_debug_state");
}

Allocator find_allocator(const std::string &path, const std::string *prefix, bool all_by_instruction) {
    Allocator found;
    ProbeFile file;
    if (const dwunw_status status = dwunw_probe_file_open(path.c_str(), Receive(file)); status != DWUNW_OK) {
        found.problems.push_back(dwunw_status_string(status));
        return found;
    }
    Finder finder(file.get(), found, all_by_instruction);
    // glibc's dynamic linker. A static program has _dl_allocate_tls, too, but beside the C library's malloc.
    if (finder.defines("_dl_allocate_tls") && !finder.defines("__libc_malloc"))
        return found;
    const uint64_t glibc = finder.defines("malloc_info") ? MEMLEAK_GLIBC_HEADER : 0;
    for (const std::string_view known : known_prefixes()) {
        const std::string name(known);
        const std::string &used = prefix != nullptr ? *prefix : name;
        if (prefix != nullptr && !known.empty())
            break; // the one prefix was tried
        // A static program may have malloc without free, if it never frees.
        if (!finder.defines(used + "malloc") || (!used.empty() && !finder.defines(used + "free")))
            continue;
        found.has_heap = true;
        found.prefix = used;
        for (const Function &function : heap_functions())
            finder.add(function, used, glibc);
    }
    // Neither a C library nor a program.
    found.is_only_allocator =
        found.has_heap && !finder.defines("printf") && !finder.defines("main") && !finder.defines("_start");
    // A libc's malloc is not in the same file as operator new.
    bool has_operators = false;
    if (found.has_heap && finder.defines("_Znwm") && finder.defines("_ZdlPv")) {
        for (const Function &function : cxx_operators())
            finder.add(function, "", 0);
        has_operators = true;
    }
    if (!has_operators || !finder.kinds_are_clear())
        forget_kinds(found);
    for (const Function &function : mapping_functions())
        finder.add(function, "", 0);
    if (!found.sites.empty())
        for (const Function &function : jump_functions())
            finder.add(function, "", 0);
    return found;
}

} // namespace dwunw_tool::memleak
