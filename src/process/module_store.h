// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Every module of a context, once.
//
//     process 1 maps /usr/lib/libc.so.6  ─┐
//     process 2 maps /usr/lib/libc.so.6  ─┴─►  device 8:1, inode 1234, size, mtime, ctime  ─►  one Module, one
//     table a container's copy of libc         ───►  another inode                               ─►  another Module
//
// Processes share tables, so a file that passes for another one would make that one's stacks wrong. A build-id is only
// a claim: anyone can build a file with libc's build-id and other CFI. So build-ids identify nothing here. Device and
// inode identify a file; the kernel guarantees this while the store holds the file open. Size, mtime and ctime identify
// the version of its content; an owner cannot set ctime. An image from memory is identified by all its bytes. The cost:
// equal files on different file systems are compiled once each.
//
// Tables have a budget of bytes. Beyond it, the CFI of the least recently used module is dropped, and read again when
// it is needed. The module itself, its name and its descriptor stay.
//
// Thread-safe. The lock is held to look a module up, never to open, parse or compile one.
#pragma once

#include "process/compile_queue.h"
#include "process/file_source.h"
#include "process/memory_image.h"
#include "process/module.h"

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dwunw::process {

class ModuleStore {
  public:
    // If an inode has more versions than this, something rewrites it on purpose.
    static constexpr size_t kMaxVersions = 64;
    static constexpr size_t kDefaultBudget = size_t{256} << 20;
    // Limits for all modules together, see ModuleBudget. If sections have no room, the CFI of other modules is dropped.
    // A module that still has no room has no CFI until the next request.
    static constexpr uint64_t kImageBudget = uint64_t{256} << 20;
    static constexpr uint64_t kSectionBudget = uint64_t{256} << 20;
    // Sections up to this size are compiled at once (under a millisecond). With bigger ones, walks use single FDEs
    // until the queue has made the table.
    static constexpr size_t kCompileAtOnce = size_t{64} << 10;

    explicit ModuleStore(size_t budget = kDefaultBudget, uint64_t image_budget = kImageBudget,
                         uint64_t section_budget = kSectionBudget)
        : budget_(budget),
          memory_(std::make_shared<ModuleBudget>(ModuleBudget{Budget(image_budget), Budget(section_budget)})),
          queue_([this] { evict(); }) {}

    // The module of a file. DWUNW_ERR_NOT_ELF: nothing stays open; LocatedFile::open's errors; DWUNW_ERR_LIMIT: more
    // than kMaxVersions. With kAny, a file that is not an ELF image also has a module; its image() says so.
    enum class Content : uint8_t { kElf, kAny };
    Result<const dwunw_module *> intern(const LocatedFile &file, std::string_view path,
                                        Content content = Content::kElf);
    // The file with that identity, if it has a module; otherwise nullptr.
    const Module *known(const FileIdentity &identity) const;
    // The module of a known file, by device and inode, in its present version; nullptr: there is none.
    const dwunw_module *current(uint64_t device, uint64_t inode, std::string_view path);
    // The module of an image from memory. DWUNW_ERR_NOT_ELF.
    Result<const dwunw_module *> intern(std::unique_ptr<const MemoryImage> image, std::string_view path);
    // The module of a file that could not be opened: it has only a name.
    const dwunw_module *intern_unusable(std::string_view path, dwunw_status status);

    // A module's CFI, whose table exists or is being made. Module::cfi's errors.
    Result<std::shared_ptr<const unwind::ModuleCfi>> cfi(const Module &file);
    void wait_for_tables() { queue_.wait_until_idle(); }

    struct Totals {
        uint64_t modules = 0;     // distinct files and images
        uint64_t table_bytes = 0; // CFI and tables held now
        uint64_t compiled = 0;    // tables
        uint64_t evicted = 0;     // modules whose CFI was dropped for the budget
        uint64_t failed = 0;      // no memory for the table, or the file changed
    };
    Totals totals() const;

  private:
    struct Inode {
        std::shared_ptr<const UniqueFd> fd;
        std::vector<std::unique_ptr<const Module>> versions;
    };
    struct MemoryModule {
        const MemoryImage *image; // owned by `file`
        std::unique_ptr<const Module> file;
    };

    const dwunw_module *name(const Module *file, dwunw_status status, std::string_view path);
    // Visits every file and image. mutex_ must be held.
    template <typename Visit> void each_file(Visit &&visit) const;
    void evict();
    // Drops the CFI of modules, the least recently used first, until this many bytes of the section budget are free, or
    // no CFI is left.
    void make_room(uint64_t bytes);
    // The files with CFI, the least recently used first, and their total size. mutex_ must be held.
    std::vector<const Module *> holders(size_t &total) const;

    const size_t budget_;
    const std::shared_ptr<ModuleBudget> memory_;
    std::atomic<uint64_t> clock_ = 0;
    std::atomic<uint64_t> compiled_ = 0; // also counts failures
    std::atomic<uint64_t> failed_ = 0;   // without the queue's
    std::atomic<uint64_t> evicted_ = 0;

    mutable std::mutex mutex_;
    std::map<std::pair<uint64_t, uint64_t>, Inode> inodes_;
    std::unordered_multimap<size_t, MemoryModule> images_; // by hash
    std::map<std::pair<const Module *, dwunw_status>, std::map<std::string, std::unique_ptr<dwunw_module>, std::less<>>>
        modules_;

    CompileQueue queue_; // last: its thread uses the members above
};

} // namespace dwunw::process
