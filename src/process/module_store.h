// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Every module of a context, once.
//
// What "the same module" means decides who can harm whom: a table is shared between processes, so whoever can make his
// file pass for another one makes that other one's stacks wrong. A build-id is a claim that a file makes about itself;
// anybody can build a file with libc's build-id and other CFI. So build-ids identify nothing here. A file is its device
// and inode, which the kernel vouches for as long as the store holds the file open, and its content's version is size,
// mtime and ctime, the last of which no owner can set. An image from memory is its bytes, all of them compared.
// The price: equal files on different file systems are compiled once each.
//
// Tables have a budget of bytes. Where it is exceeded, the CFI of the module that was looked up in longest ago is
// dropped and read again when it is needed; the module itself, its name and its descriptor stay.
//
// Thread-safe. Its lock is held to look a module up, never to open, parse or compile one.
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
    // More than this many versions of one inode and something rewrites it on purpose.
    static constexpr size_t kMaxVersions = 64;
    static constexpr size_t kDefaultBudget = size_t{256} << 20;
    // Of all modules together, see ModuleBudget. Where sections have no room, the CFI of other modules is dropped; a
    // module that has none even so goes without, until it is asked for again.
    static constexpr uint64_t kImageBudget = uint64_t{256} << 20;
    static constexpr uint64_t kSectionBudget = uint64_t{256} << 20;
    // Sections up to this size are compiled at once (under a millisecond); of bigger ones the first walks take single
    // FDEs, until the queue has made the table.
    static constexpr size_t kCompileAtOnce = size_t{64} << 10;

    explicit ModuleStore(size_t budget = kDefaultBudget, uint64_t image_budget = kImageBudget,
                         uint64_t section_budget = kSectionBudget)
        : budget_(budget),
          memory_(std::make_shared<ModuleBudget>(ModuleBudget{Budget(image_budget), Budget(section_budget)})),
          queue_([this] { evict(); }) {}

    // The module of a file. DWUNW_ERR_NOT_ELF, after which nothing is kept open; LocatedFile::open's errors;
    // DWUNW_ERR_LIMIT after kMaxVersions. With kAny, a file that is no ELF image has a module, too, whose image() says
    // so.
    enum class Content : uint8_t { kElf, kAny };
    Result<const dwunw_module *> intern(const LocatedFile &file, std::string_view path,
                                        Content content = Content::kElf);
    // The file with that identity, if it has a module; nullptr where it has none.
    const Module *known(const FileIdentity &identity) const;
    // The module of a file that is known, by device and inode, as the file is now; nullptr where there is none.
    const dwunw_module *current(uint64_t device, uint64_t inode, std::string_view path);
    // The module of an image from memory. DWUNW_ERR_NOT_ELF.
    Result<const dwunw_module *> intern(std::unique_ptr<const MemoryImage> image, std::string_view path);
    // The module of a file that could not be opened: only a name.
    const dwunw_module *intern_unusable(std::string_view path, dwunw_status status);

    // A module's CFI, with its table or on the way to it. Module::cfi's errors.
    Result<std::shared_ptr<const unwind::ModuleCfi>> cfi(const Module &file);
    void wait_for_tables() { queue_.wait_until_idle(); }

    struct Totals {
        uint64_t modules = 0;     // distinct files and images
        uint64_t table_bytes = 0; // CFI and tables held now
        uint64_t compiled = 0;    // tables
        uint64_t evicted = 0;     // modules whose CFI was dropped for the budget
        uint64_t failed = 0;      // tables that there was no memory for, or whose file changed
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
    // Every file and image, whatever it is found by. Under mutex_.
    template <typename Visit> void each_file(Visit &&visit) const;
    void evict();
    // Drops the CFI of modules, the one used longest ago first, until so much is left of its sections' budget, or none
    // is held.
    void make_room(uint64_t bytes);
    // The files that hold CFI, the one used longest ago first, and what they hold together. Under mutex_.
    std::vector<const Module *> holders(size_t &total) const;

    const size_t budget_;
    const std::shared_ptr<ModuleBudget> memory_;
    std::atomic<uint64_t> clock_ = 0;
    std::atomic<uint64_t> compiled_ = 0; // or tried to
    std::atomic<uint64_t> failed_ = 0;   // beside the queue's
    std::atomic<uint64_t> evicted_ = 0;

    mutable std::mutex mutex_;
    std::map<std::pair<uint64_t, uint64_t>, Inode> inodes_;
    std::unordered_multimap<size_t, MemoryModule> images_; // by hash
    std::map<std::pair<const Module *, dwunw_status>, std::map<std::string, std::unique_ptr<dwunw_module>, std::less<>>>
        modules_;

    CompileQueue queue_; // last: its thread uses what stands above
};

} // namespace dwunw::process
